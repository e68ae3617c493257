// The PTX of the kernels' `asm` statements, executed. A statement is parsed once, at its place in the source, and run each time
// a thread comes by. What is not listed in `instructions()` is refused, and so are modifiers that change what it does and
// that its handler does not know.
#pragma once

#include <cmath>

#include "tensor_core.h"
#include "warpgroup.h"

namespace model {

struct Operand {
    enum Kind { ARGUMENT, REGISTER, IMMEDIATE, SPECIAL, SINK, VECTOR, ADDRESS } kind = SINK;
    int index = 0;
    Value value = 0;
    bool negated = false;
    std::string name;
    std::vector<Operand> parts;  // of a vector; of an address its base and, for tensors, its coordinates
};

struct Call;
struct Statement {
    std::string name, guard;  // the whole opcode
    bool guard_negated = false;
    int guard_index = -1;
    std::vector<std::string> parts;
    std::vector<Operand> operands;
    void (*handler)(Call&) = nullptr;
    std::string branch, label;
};

// An `asm` statement, parsed.
struct Code::Parsed {
    std::string text;
    std::vector<Statement> statements;
    std::vector<std::string> registers;

    void parse();
    Operand operand(const std::string& text);
    int register_index(const std::string& name) const {
        const auto it = std::find(registers.begin(), registers.end(), name);
        return it == registers.end() ? -1 : static_cast<int>(it - registers.begin());
    }
};

// One execution of a statement.
struct Call {
    const Statement& statement;
    std::vector<Argument>& arguments;
    std::vector<Value>& registers;

    bool has(const char* part) const {
        return std::find(statement.parts.begin(), statement.parts.end(), part) != statement.parts.end();
    }
    const Operand& at(size_t index) const {
        if (index >= statement.operands.size()) fail("%s has too few operands", statement.name.c_str());
        return statement.operands[index];
    }
    Value value(const Operand& operand) const;
    Value get(size_t index) const { return value(at(index)); }
    u32 word(size_t index) const { return static_cast<u32>(get(index)); }
    float number(size_t index) const {
        const u32 bits = word(index);
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    // The base of an address.
    u32 address(size_t index) const {
        const Operand& operand = at(index);
        if (operand.kind != Operand::ADDRESS) fail("%s: operand %zu is no address", statement.name.c_str(), index);
        return static_cast<u32>(value(operand.parts[0]) + operand.value);
    }
    void set(const Operand& operand, Value value);
    void set(size_t index, Value value) { set(at(index), value); }
    void set_number(size_t index, float number) {
        u32 bits;
        memcpy(&bits, &number, 4);
        set(index, bits);
    }
    int group() const {
        return has("cta_group::2") ? 2 : has("cta_group::1") ? 1 : (fail("%s without a cta_group", statement.name.c_str()), 0);
    }
    // Bytes of one element of a load or store, by the type that ends its name.
    int element_bytes() const { return std::atoi(statement.parts.back().c_str() + 1) / 8; }
    int elements() const { return has("v8") ? 8 : has("v4") ? 4 : has("v2") ? 2 : 1; }
};

inline Value Call::value(const Operand& operand) const {
    switch (operand.kind) {
        case Operand::ARGUMENT: return arguments.at(operand.index).bits;
        case Operand::REGISTER: return operand.negated ? registers[operand.index] == 0 : registers[operand.index];
        case Operand::IMMEDIATE: return operand.value;
        case Operand::SPECIAL:
            if (operand.name == "cluster_ctarank") return self().rank;
            if (operand.name == "clusterid.x") return self().cluster->index;
            if (operand.name == "ctaid.x") return self().index;
            if (operand.name == "laneid") return current->lane;
            fail("the register %%%s is not modelled", operand.name.c_str());
        default: fail("%s: an operand of a kind that is not modelled", statement.name.c_str());
    }
}

inline void Call::set(const Operand& operand, Value value) {
    if (operand.kind == Operand::SINK) return;
    if (operand.kind == Operand::REGISTER) {
        registers[operand.index] = value;
    } else if (operand.kind == Operand::ARGUMENT && arguments.at(operand.index).place) {
        arguments[operand.index].bits = value;
        memcpy(arguments[operand.index].place, &value, arguments[operand.index].bytes);
    } else {
        fail("%s: a result that nothing takes", statement.name.c_str());
    }
}

// ---- What each instruction does ----

namespace run {

inline void nothing(Call&) {}

inline void move(Call& call) {
    const Operand &to = call.at(0), &from = call.at(1);
    const int bits = std::atoi(call.statement.parts.back().c_str() + 1);
    if (to.kind == Operand::VECTOR) {
        const Value value = call.value(from);
        for (size_t i = 0; i < to.parts.size(); ++i) {
            const int part = bits / static_cast<int>(to.parts.size());
            call.set(to.parts[i], value >> part * i & ((Value{1} << part) - 1));
        }
    } else if (from.kind == Operand::VECTOR) {
        Value value = 0;
        const int part = bits / static_cast<int>(from.parts.size());
        for (size_t i = 0; i < from.parts.size(); ++i)
            value |= (call.value(from.parts[i]) & ((Value{1} << part) - 1)) << part * i;
        call.set(to, value);
    } else {
        call.set(to, call.value(from));
    }
}

inline u32 shared_base() { return self().rank << RANK_SHIFT | SHARED_BEGIN; }

inline void to_shared(Call& call) {
    const auto pointer = reinterpret_cast<unsigned char*>(static_cast<uintptr_t>(call.get(1)));
    const auto own = static_cast<size_t>(pointer - self().shared.data());
    if (own < self().shared.size()) return call.set(0, shared_base() + own);
    if (pointer != shared_symbol()) fail("a pointer that is not the beginning of the dynamic shared memory");
    call.set(0, shared_base());
}
inline void to_generic(Call& call) {
    const u32 address = call.word(1);
    check_range(self(), address, 1);
    call.set(0, reinterpret_cast<uintptr_t>(bytes_at(self(), address)));
}
inline void map_address(Call& call) { call.set(0, call.word(2) << RANK_SHIFT | (call.word(1) & WINDOW)); }

inline void compare(Call& call) {
    const u32 a = call.word(1), b = call.word(2);
    const bool result = call.has("ne")   ? a != b
                        : call.has("eq") ? a == b
                                         : (fail("%s is not modelled", call.statement.name.c_str()), false);
    call.set(0, result);
}
inline void select(Call& call) { call.set(0, call.get(3) ? call.get(1) : call.get(2)); }

inline void load_shared(Call& call) {
    const int bytes = call.element_bytes(), elements = call.elements();
    const u32 address = call.address(1);
    if (address % (bytes * elements) != 0) fail("a load of %d bytes at %u", bytes * elements, address & WINDOW);
    thread_reads(address, bytes * elements);
    for (int i = 0; i < elements; ++i) {
        Value value = 0;
        memcpy(&value, bytes_at(program_at(address), address) + i * bytes, bytes);
        call.set(elements > 1 ? call.at(0).parts.at(i) : call.at(0), value);
    }
}
inline void store_shared(Call& call) {
    const int bytes = call.element_bytes(), elements = call.elements();
    const u32 address = call.address(0);
    if (address % (bytes * elements) != 0) fail("a store of %d bytes at %u", bytes * elements, address & WINDOW);
    thread_writes(address, bytes * elements);
    for (int i = 0; i < elements; ++i) {
        const Value value = call.value(elements > 1 ? call.at(1).parts.at(i) : call.at(1));
        memcpy(bytes_at(program_at(address), address) + i * bytes, &value, bytes);
    }
}
// Matrices of 8 x 8 of 16 bits in shared memory, the addresses of whose rows the lanes give by an operand, eight lanes a matrix: visits
// the two elements of each that this lane holds.
template <typename Visit>
void each_of_matrices(Call& call, const char* what, size_t operand, Visit visit) {
    together(true, what);
    const int matrices = call.has("x4") ? 4 : call.has("x2") ? 2 : 0;
    if (matrices == 0 || !call.has("m8n8")) fail("%s is not modelled", call.statement.name.c_str());
    Warp& warp = own_warp();
    warp.exchanged[current->lane] = call.address(operand);
    meet(warp.collective, 32, true, false, what);
    const std::vector<u64> rows = warp.exchanged;
    meet(warp.collective, 32, true, false, what);
    const int lane = current->lane;
    for (int matrix = 0; matrix < matrices; ++matrix) {
        for (int half = 0; half < 2; ++half) {
            const int across = lane % 4 * 2 + half, row = call.has("trans") ? across : lane / 4,
                      column = call.has("trans") ? lane / 4 : across;
            const u32 begin = static_cast<u32>(rows[matrix * 8 + row]);
            if (begin % 16 != 0) fail("%s of a row at %u", what, begin & WINDOW);
            visit(matrix, half, begin + column * 2);
        }
    }
}
inline void load_matrices(Call& call) {
    if (!call.has("x4")) fail("%s is not modelled", call.statement.name.c_str());
    u32 words[4] = {};
    each_of_matrices(call, "ldmatrix", 1, [&](int matrix, int half, u32 from) {
        thread_reads(from, 2);
        uint16_t value;
        memcpy(&value, bytes_at(program_at(from), from), 2);
        words[matrix] |= u32{value} << 16 * half;
    });
    for (int matrix = 0; matrix < 4; ++matrix) call.set(call.at(0).parts.at(matrix), words[matrix]);
}
inline void store_matrices(Call& call) {
    each_of_matrices(call, "stmatrix", 0, [&](int matrix, int half, u32 to) {
        thread_writes(to, 2);
        const auto value = static_cast<uint16_t>(static_cast<u32>(call.value(call.at(1).parts.at(matrix))) >> 16 * half);
        memcpy(bytes_at(program_at(to), to), &value, 2);
    });
}
// To the shared memory of a program of the cluster, some time later; a barrier there counts the bytes.
inline void store_async(Call& call) {
    const int bytes = call.element_bytes(), elements = call.elements();
    const u32 to = call.address(0), signals = call.address(2);
    if (to % (bytes * elements) != 0) fail("st.async of %d bytes at %u", bytes * elements, to & WINDOW);
    if (to >> RANK_SHIFT != signals >> RANK_SHIFT) fail("st.async whose bytes another program's barrier is to count");
    std::vector<u32> words;
    for (int i = 0; i < elements; ++i) words.push_back(static_cast<u32>(call.value(elements > 1 ? call.at(1).parts.at(i) : call.at(1))));
    Program& program = program_at(to);
    check_range(program, to, bytes * elements);
    Barrier& barrier = barrier_at(signals, true);
    const unsigned phase = barrier.phase;
    Cell* cells = cells_at(program, to);
    for (int i = 0; i < bytes * elements / 2; ++i) {
        if (!seen_by_thread(cells[i].write) || !cells[i].reads_known(seen_by_thread))
            fail("st.async writes where others may still read or write: %s", place(to + 2 * i).c_str());
        cells[i].set_write({barrier.id, phase + 1});
    }
    ++program.in_flight;
    jobs.push_back([=, &program] {
        memcpy(bytes_at(program, to), words.data(), 4 * words.size());
        --program.in_flight;
        engine_arrives(program, signals, phase, 0, bytes * elements, nullptr);
    });
}
inline const uint8_t* pointer(Call& call, size_t index) {
    const Operand& operand = call.at(index);
    return reinterpret_cast<const uint8_t*>(static_cast<uintptr_t>(call.value(operand.parts.at(0)) + operand.value));
}
inline void load_global(Call& call) {
    const int bytes = call.element_bytes(), elements = call.elements();
    const uint8_t* from = pointer(call, 1);
    thread_reads_global(from, bytes * elements);
    for (int i = 0; i < elements; ++i) {
        Value value = 0;
        memcpy(&value, from + i * bytes, bytes);
        call.set(elements > 1 ? call.at(0).parts.at(i) : call.at(0), value);
    }
}
inline void store_global(Call& call) {
    const int bytes = call.element_bytes(), elements = call.elements();
    const uint8_t* to = pointer(call, 0);
    thread_writes_global(to, bytes * elements);
    for (int i = 0; i < elements; ++i) {
        const Value value = call.value(elements > 1 ? call.at(1).parts.at(i) : call.at(1));
        memcpy(const_cast<uint8_t*>(to) + i * bytes, &value, bytes);
    }
}

inline void atomic(Call& call) {
    const bool both = call.has("acq_rel");
    if (!call.has("gpu") || !call.has("u32")) fail("%s is not modelled", call.statement.name.c_str());
    if (both || call.has("release")) current->now.memory.fence(GPU);
    call.set(0, atomic_add(reinterpret_cast<u32*>(const_cast<uint8_t*>(pointer(call, 1))), call.word(2)));
    if (both || call.has("acquire")) fence_gpu();
}

// A word that atomics change meanwhile; what they told is known after the next fence.
inline void load_relaxed(Call& call) {
    if (!call.has("gpu") || !call.has("u32")) fail("%s is not modelled", call.statement.name.c_str());
    yield();
    call.set(0, read_relaxed(reinterpret_cast<const u32*>(pointer(call, 1))));
}

inline void barrier_init(Call& call) { make_barrier(call.address(0), call.word(1)); }
inline void barrier_arrive(Call& call) {
    const u32 address = call.address(1);
    const bool far = address >> RANK_SHIFT != self().rank, expects = call.has("expect_tx");
    const bool in_cluster = call.has("cluster");
    const Signal signal = call.has("relaxed")  ? Signal::RELAXED
                          : far && !in_cluster ? Signal::RELEASE_TO_PROGRAM
                                               : Signal::RELEASE;
    const bool counted = !expects && call.statement.operands.size() > 2;
    arrive(address, counted ? static_cast<int>(call.word(2)) : 1, expects ? call.word(2) : 0, signal);
}
inline void barrier_expect(Call& call) { expect(call.address(0), call.word(1)); }
inline void barrier_wait(Call& call) {
    current->trace = current->trace * 31 + current->lane + 1;  // lanes may come out of it at different times
    const bool ended =
        try_wait(call.address(1), call.word(2) & 1, !call.has("relaxed"), call.has("cluster"), call.has("test_wait"));
    call.set(0, ended);
}

inline void set_registers(Call&) { together(true, "setmaxnreg"); }

inline void fence(Call& call) {
    if (call.has("mbarrier_init")) return publish_barriers();
    if (call.has("proxy")) {
        if (call.has("async") || call.has("async::generic")) {
            current->now.memory.fence(ASYNC);
            current->tensor.memory.fence(ASYNC);
            publish_barriers();
            return;
        }
    } else if (call.has("gpu") || call.has("sys") || call.has("gl")) {
        return fence_gpu();
    } else if (call.has("cta") || call.has("cluster")) {
        return;
    }
    fail("%s is not modelled", call.statement.name.c_str());
}

inline void program_sync(Call& call) {
    const bool counted = call.statement.operands.size() > 1;
    const int count = counted ? static_cast<int>(call.word(1)) : static_cast<int>(self().threads.size());
    sync_program(static_cast<int>(call.word(0)), count, !call.has("arrive"));
}
inline void cluster_barrier(Call& call) {
    together(call.has("aligned"), "barrier.cluster");
    if (call.has("arrive")) {
        cluster_arrive(!call.has("relaxed"));
    } else {
        cluster_wait(true);
    }
}

inline void elect(Call& call) {
    together(false, "elect.sync");
    call.set(call.at(0).parts.at(1), current->lane == static_cast<int>(self().cluster->index % 32));
}

inline std::vector<int> coordinates(Call& call, const Operand& operand) {
    std::vector<int> begin;
    for (const Operand& part : operand.parts.at(1).parts) begin.push_back(static_cast<int>(static_cast<u32>(call.value(part))));
    return begin;
}
inline const Map& map_of(Call& call, const Operand& operand) {
    const Map* map;
    memcpy(&map, reinterpret_cast<const void*>(static_cast<uintptr_t>(call.value(operand.parts.at(0)))), sizeof map);
    return *map;
}
inline void copy_tensor(Call& call) {
    if (call.at(0).parts.size() == 2) return store(map_of(call, call.at(0)), call.address(1), coordinates(call, call.at(0)));
    const u32 shared = call.address(0);
    std::vector<u32> ranks;
    if (call.has("multicast::cluster")) {
        for (u32 rank = 0; rank < 16; ++rank) {
            if (call.word(3) >> rank & 1) ranks.push_back(rank);
        }
    } else {
        ranks.push_back(shared >> RANK_SHIFT);
    }
    const bool far = call.has("cta_group::2") && ranks.size() == 1;
    const u32 barrier = call.address(2);
    if (!far && ranks.size() == 1 && barrier >> RANK_SHIFT != ranks[0]) {
        fail("a copy whose bytes another program's barrier is to count (that takes cta_group::2)");
    }
    load(shared, map_of(call, call.at(1)), barrier, coordinates(call, call.at(1)), ranks, far);
}
inline void bulk_commit(Call&) { commit_stores(); }
inline void bulk_wait(Call& call) { wait_stores(call.word(0)); }

// ---- tcgen05 ----

inline void tensor_alloc(Call& call) {
    together(true, "tcgen05.alloc");
    if (current->lane == 0) allocate(call.group(), call.address(0), call.word(1));
}
inline void tensor_permit(Call& call) {
    together(true, "tcgen05.relinquish_alloc_permit");
    if (current->lane == 0) relinquish(call.group());
}
inline void tensor_dealloc(Call& call) {
    together(true, "tcgen05.dealloc");
    if (current->lane == 0) deallocate(call.group(), call.word(0), call.word(1));
}
inline std::string shape_of(Call& call) {
    for (const std::string& part : call.statement.parts) {
        if (part.find("32x") == 0 || part.find("16x") == 0) return part;
    }
    fail("%s without a shape", call.statement.name.c_str());
}
inline void check_registers(Call& call, const Operand& registers) {
    const std::string shape = shape_of(call);
    int repeats = 0;
    for (const std::string& part : call.statement.parts) {
        if (part[0] == 'x') repeats = std::atoi(part.c_str() + 1);
    }
    const int each = shape == "16x256b" ? 4 : shape == "16x128b" ? 2 : 1;
    if (static_cast<int>(registers.parts.size()) != repeats * each)
        fail("%s with %zu registers", call.statement.name.c_str(), registers.parts.size());
}
inline void tensor_ld(Call& call) {
    together(true, "tcgen05.ld");
    check_registers(call, call.at(0));
    std::vector<void*> places;
    for (const Operand& part : call.at(0).parts) places.push_back(call.arguments.at(part.index).place);
    tensor_load(shape_of(call), call.address(1), places);
}
inline void tensor_st(Call& call) {
    together(true, "tcgen05.st");
    check_registers(call, call.at(1));
    std::vector<u32> values;
    for (const Operand& part : call.at(1).parts) values.push_back(static_cast<u32>(call.value(part)));
    tensor_store(shape_of(call), call.address(0), values);
}
inline void tensor_wait(Call& call) {
    together(true, "tcgen05.wait");
    call.has("wait::ld") ? wait_loads() : wait_tensor_stores();
}
inline void tensor_fence(Call& call) { call.has("fence::before_thread_sync") ? fence_before_signal() : fence_after_signal(); }
inline void tensor_commit(Call& call) {
    const bool multicast = call.has("multicast::cluster");
    commit(call.group(), call.address(0), multicast, multicast ? call.word(1) : 0);
}
inline void tensor_mma(Call& call) {
    if (call.has("block_scale")) {
        const bool is_e2m1 = call.has("kind::mxf4nvf4") && call.has("scale_vec::4X");
        if (!is_e2m1 && !(call.has("kind::mxf8f6f4") && call.has("scale_vec::1X"))) fail("%s is not modelled", call.statement.name.c_str());
        return multiply_scaled(call.group(), {is_e2m1}, call.address(0), static_cast<u64>(call.get(1)),
                               static_cast<u64>(call.get(2)), call.word(3), call.address(4), call.address(5), call.get(6) != 0);
    }
    const int element_bytes = call.has("kind::f16") ? 2 : call.has("kind::f8f6f4") ? 1 : 0;
    if (element_bytes == 0) fail("%s is not modelled", call.statement.name.c_str());
    const bool held = call.at(1).kind == Operand::ADDRESS;
    multiply(element_bytes, call.group(), call.address(0), held ? call.address(1) : static_cast<u64>(call.get(1)), held,
             static_cast<u64>(call.get(2)), call.word(3), call.get(call.statement.operands.size() - 1) != 0);
}

inline void tensor_cp(Call& call) {
    if (!call.has("32x128b") || !call.has("warpx4")) fail("%s is not modelled", call.statement.name.c_str());
    copy_to_tensor_memory(call.group(), call.address(0), static_cast<u64>(call.get(1)));
}

// ---- Copies and products of warps ----

// It may come any time until its group is waited for: nothing of it is there before.
inline void copy_async(Call& call) {
    const u32 to = call.address(0), bytes = call.word(2), given = call.word(3);
    const uint8_t* from = pointer(call, 1);
    if (to % bytes != 0 || (given > 0 && reinterpret_cast<uintptr_t>(from) % bytes != 0)) fail("cp.async of %u bytes that are not aligned", bytes);
    thread_writes(to, bytes);
    Program& program = program_at(to);
    Thread* thread = current;
    memset(bytes_at(program, to), 0xFF, bytes);
    const auto copy = [=, &program] {
        memset(bytes_at(program, to), 0, bytes);
        if (given > 0) memcpy(bytes_at(program, to), from, given);
        // No fence or signal of before is one for it.
        for (u32 i = 0; i < bytes / 2; ++i) cells_at(program, to)[i].set_write({entry(DONE, thread->id), thread->tick});
    };
    current->open_copies.push_back(std::make_shared<AsyncCopy>(AsyncCopy{copy}));
}
inline void copy_commit(Call&) {
    current->copies.push_back(std::move(current->open_copies));
    current->open_copies.clear();
}
inline void copy_wait(Call& call) {
    while (current->copies.size() > call.word(0)) {
        for (const auto& copy : current->copies.front()) copy->make();
        current->copies.pop_front();
    }
}
// Arrives when this thread's copies of before have been made.
inline void copy_arrive(Call& call) {
    if (!call.has("noinc")) fail("%s is not modelled", call.statement.name.c_str());
    std::vector<std::shared_ptr<AsyncCopy>> before = current->open_copies;
    for (const auto& group : current->copies) before.insert(before.end(), group.begin(), group.end());
    const u32 barrier = call.address(0);
    barrier_at(barrier, true);
    Program& program = self();
    Thread* thread = current;
    ++program.in_flight;
    jobs.push_back([=, &program] {
        for (const auto& copy : before) copy->make();
        Knowledge known;
        known.raise(entry(DONE, thread->id), thread->tick);
        --program.in_flight;
        engine_arrives(program, barrier, 0, 1, 0, &known);
    });
    tick();
}
// Every lane's fragments, once this one's words are among them.
inline std::array<Fragments, 32> exchange_fragments(const Fragments& own, const char* what) {
    Warp& warp = own_warp();
    warp.fragments[current->lane] = own;
    meet(warp.collective, 32, true, false, what);
    const auto all = warp.fragments;
    meet(warp.collective, 32, true, false, what);
    return all;
}
// 16 x 8 sums of products over 16 of k, whose fragments the lanes hold.
template <Number NUMBER>
void multiply_of_warp(Call& call) {
    together(true, "mma.sync");
    Fragments own;
    for (int i = 0; i < 4; ++i) own[i] = static_cast<u32>(call.value(call.at(1).parts.at(i)));
    for (int i = 0; i < 2; ++i) own[4 + i] = static_cast<u32>(call.value(call.at(2).parts.at(i)));
    const auto all = exchange_fragments(own, "mma.sync");
    const auto half = [](u32 word, int k) { return value_of(NUMBER, word >> 16 * (k % 2) & 0xFFFF); };
    for (int i = 0; i < 4; ++i) {
        const int row = current->lane / 4 + i / 2 * 8, column = current->lane % 4 * 2 + i % 2;
        float sum = float_of(static_cast<u32>(call.value(call.at(3).parts.at(i))));
        for (int k = 0; k < 16; ++k) {
            const u32 a = all[row % 8 * 4 + k % 8 / 2][k / 8 * 2 + row / 8], b = all[column * 4 + k % 8 / 2][4 + k / 8];
            sum += half(a, k) * half(b, k);
        }
        call.set(call.at(0).parts.at(i), bits_of(sum));
    }
}

// ---- Products of warpgroups ----

inline void products_fence(Call&) {
    together(true, "wgmma.fence");
    current->is_fenced = true;
}
inline void products_commit(Call&) {
    together(true, "wgmma.commit_group");
    commit_products();
}
inline void products_wait(Call& call) {
    together(true, "wgmma.wait_group");
    wait_products(call.word(0));
    // Until all lanes have theirs. What these read before is in registers that the products took.
    meet(own_warp().sync, 32, true, true, "wgmma.wait_group");
}
// Operands: sums, A, B, whether sums are added to, signs, and for two bytes an element the order of operands from shared memory.
inline void products_multiply(Call& call) {
    together(true, "wgmma.mma_async");
    const std::string &shape = call.statement.parts.at(4), &type = call.statement.parts.back();
    const Number number = type == "bf16" ? Number::BF16 : type == "f16" ? Number::F16 : Number::E4M3;
    if (type != "bf16" && type != "f16" && type != "e4m3") fail("%s is not modelled", call.statement.name.c_str());
    const bool is_held = call.at(1).kind == Operand::VECTOR, has_order = number != Number::E4M3;
    if (call.get(4) != 1 || call.get(5) != 1) fail("wgmma with signs that are not 1");
    if (shape.substr(shape.rfind('k')) != (has_order ? "k16" : "k32")) fail("%s is not modelled", call.statement.name.c_str());
    const bool a_mn = has_order && !is_held && call.get(6) != 0, b_mn = has_order && call.get(is_held ? 6 : 7) != 0;
    std::vector<void*> places;
    for (const Operand& part : call.at(0).parts) places.push_back(call.arguments.at(part.index).place);

    const int bytes = bytes_of(number), columns = std::atoi(shape.c_str() + 4);
    WarpgroupOperands it{number, columns, {}, {}, operand_of_wgmma(call.get(2), b_mn, bytes), call.get(3) != 0};
    if (is_held) {
        Fragments own{};
        for (int i = 0; i < 4; ++i) own[i] = static_cast<u32>(call.value(call.at(1).parts.at(i)));
        it.fragments = exchange_fragments(own, "wgmma.mma_async");
    } else {
        it.a = operand_of_wgmma(call.get(1), a_mn, bytes);
    }
    multiply_in_warpgroup(it, places);
}

// ---- The order of a grid's programs ----

struct Cancelled {
    bool is_cancelled;
    u32 first;
};
inline Cancelled cancel_one();

inline void try_cancel(Call& call) {
    if (self().cluster->was_told_none) fail("clusterlaunchcontrol.try_cancel after the answer that there is none");
    const u32 address = call.address(0), barrier = call.address(1);
    std::vector<u32> ranks{address >> RANK_SHIFT};
    if (call.has("multicast::cluster::all")) {
        ranks.clear();
        for (u32 rank = 0; rank < self().cluster->programs.size(); ++rank) ranks.push_back(rank);
    }
    const Cancelled answer = cancel_one();
    for (const u32 rank : ranks) {
        const u32 to = rank << RANK_SHIFT | (address & WINDOW), signals = rank << RANK_SHIFT | (barrier & WINDOW);
        Program& program = program_at(to);
        check_range(program, to, 16);
        Barrier& signalled = barrier_at(signals, true);
        const unsigned phase = signalled.phase;
        Cell* cells = cells_at(program, to);
        for (int i = 0; i < 8; ++i) {
            if (!seen_by_copies(cells[i].write) || !cells[i].reads_known(left_to_copies))
                fail("clusterlaunchcontrol.try_cancel writes where others may still read or write: %s", place(to).c_str());
            cells[i].set_write({signalled.id, phase + 1});
        }
        ++program.in_flight;
        jobs.push_back([=, &program] {
            const u32 words[4] = {answer.first, 0, 0, answer.is_cancelled};
            memcpy(bytes_at(program, to), words, 16);
            --program.in_flight;
            program.cluster->was_told_none |= !answer.is_cancelled;
            engine_arrives(program, signals, phase, 0, 16, nullptr);
        });
    }
}
inline void query_cancel(Call& call) {
    const Value handle = call.get(1);
    if (call.has("is_canceled")) return call.set(0, handle >> 96 & 1);
    if (!(handle >> 96 & 1)) fail("clusterlaunchcontrol.query_cancel.get_first_ctaid of what was not cancelled");
    const Operand& to = call.at(0);
    if (to.kind != Operand::VECTOR) return call.set(0, call.has("get_first_ctaid::x") ? handle & 0xFFFFFFFF : 0);
    for (size_t i = 0; i < to.parts.size(); ++i) call.set(to.parts[i], i == 0 ? handle & 0xFFFFFFFF : 0);
}

// ---- Arithmetic ----

inline void pack_pair(Call& call) { call.set(0, to_bf16(call.number(2)) | to_bf16(call.number(1)) << 16); }
inline void pack_f16_pair(Call& call) { call.set(0, to_f16(call.number(2)) | to_f16(call.number(1)) << 16); }
inline void round_f16(Call& call) { call.set(0, to_f16(call.number(1))); }
inline void round_bf16(Call& call) { call.set(0, to_bf16(call.number(1))); }
inline void fma_pair(Call& call) {
    Value result = 0;
    for (int half = 0; half < 2; ++half) {
        const auto part = [&](size_t index) { return from_bf16(call.word(index) >> 16 * half & 0xFFFF); };
        result |= Value{to_bf16(static_cast<float>(double{part(1)} * part(2) + part(3)))} << 16 * half;
    }
    call.set(0, result);
}
inline void logic(Call& call) {
    const u32 table = call.word(4);
    u32 result = 0;
    for (int i = 0; i < 32; ++i) {
        const u32 row = (call.word(1) >> i & 1) << 2 | (call.word(2) >> i & 1) << 1 | (call.word(3) >> i & 1);
        result |= (table >> row & 1) << i;
    }
    call.set(0, result);
}
inline void permute(Call& call) {
    const u64 bytes = call.word(1) | u64{call.word(2)} << 32;
    const u32 selector = call.word(3);
    u32 picked = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 nibble = selector >> 4 * i & 15, byte = bytes >> 8 * (nibble & 7) & 255;
        picked |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
    }
    call.set(0, picked);
}
inline void power_of_two(Call& call) {
    const float result = std::exp2(call.number(1));
    call.set_number(0, result < 1.17549435e-38f ? 0 : result);
}
template <typename Operation>
void on_pairs(Call& call, Operation operation) {
    Value result = 0;
    for (int half = 0; half < 2; ++half) {
        const auto part = [&](size_t index) { return float_of(static_cast<u32>(call.get(index) >> 32 * half)); };
        result |= Value{bits_of(operation(part))} << 32 * half;
    }
    call.set(0, result);
}
inline void add_floats(Call& call) {
    on_pairs(call, [](auto part) { return part(1) + part(2); });
}
inline void multiply_floats(Call& call) {
    on_pairs(call, [](auto part) { return part(1) * part(2); });
}
inline void fma_floats(Call& call) {
    on_pairs(call, [](auto part) { return std::fma(part(1), part(2), part(3)); });
}

}  // namespace run

struct Known {
    const char* name;  // how the opcode begins
    void (*handler)(Call&);
};

inline const std::vector<Known>& instructions() {
    static const std::vector<Known> all = {
        {"mov", run::move},
        {"cvta.to.shared", run::to_shared},
        {"cvta.shared", run::to_generic},
        {"mapa", run::map_address},
        {"setp", run::compare},
        {"selp", run::select},
        {"ld.shared", run::load_shared},
        {"st.shared", run::store_shared},
        {"ldmatrix", run::load_matrices},
        {"stmatrix", run::store_matrices},
        {"st.async", run::store_async},
        {"ld.relaxed", run::load_relaxed},
        {"atom.add", run::atomic},
        {"ld.global", run::load_global},
        {"st.global", run::store_global},
        {"mbarrier.init", run::barrier_init},
        {"mbarrier.arrive", run::barrier_arrive},
        {"mbarrier.expect_tx", run::barrier_expect},
        {"mbarrier.try_wait", run::barrier_wait},
        {"mbarrier.test_wait", run::barrier_wait},
        {"fence", run::fence},
        {"membar", run::fence},
        {"bar.sync", run::program_sync},
        {"bar.arrive", run::program_sync},
        {"barrier.cluster", run::cluster_barrier},
        {"elect.sync", run::elect},
        {"prefetch", run::nothing},
        {"createpolicy", run::nothing},
        {"setmaxnreg", run::set_registers},
        {"cp.async.bulk.tensor", run::copy_tensor},
        {"cp.async.bulk.commit_group", run::bulk_commit},
        {"cp.async.bulk.wait_group", run::bulk_wait},
        {"tcgen05.alloc", run::tensor_alloc},
        {"tcgen05.relinquish_alloc_permit", run::tensor_permit},
        {"tcgen05.dealloc", run::tensor_dealloc},
        {"tcgen05.ld", run::tensor_ld},
        {"tcgen05.st", run::tensor_st},
        {"tcgen05.wait", run::tensor_wait},
        {"tcgen05.fence", run::tensor_fence},
        {"tcgen05.commit", run::tensor_commit},
        {"tcgen05.mma", run::tensor_mma},
        {"tcgen05.cp", run::tensor_cp},
        {"cp.async.ca", run::copy_async},
        {"cp.async.cg", run::copy_async},
        {"cp.async.commit_group", run::copy_commit},
        {"cp.async.wait_group", run::copy_wait},
        {"cp.async.mbarrier.arrive", run::copy_arrive},
        {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", run::multiply_of_warp<Number::F16>},
        {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", run::multiply_of_warp<Number::BF16>},
        {"wgmma.fence", run::products_fence},
        {"wgmma.commit_group", run::products_commit},
        {"wgmma.wait_group", run::products_wait},
        {"wgmma.mma_async", run::products_multiply},
        {"cvt.rn.f16x2.f32", run::pack_f16_pair},
        {"cvt.rn.f16.f32", run::round_f16},
        {"clusterlaunchcontrol.try_cancel", run::try_cancel},
        {"clusterlaunchcontrol.query_cancel", run::query_cancel},
        {"cvt.rn.bf16x2.f32", run::pack_pair},
        {"cvt.rn.bf16.f32", run::round_bf16},
        {"fma.rn.bf16x2", run::fma_pair},
        {"lop3", run::logic},
        {"prmt", run::permute},
        {"ex2.approx.ftz.f32", run::power_of_two},
        {"add.rn.f32x2", run::add_floats},
        {"mul.rn.f32x2", run::multiply_floats},
        {"fma.rn.f32x2", run::fma_floats},
    };
    return all;
}

// ---- Parsing ----

inline std::string trimmed(const std::string& text) {
    const size_t begin = text.find_first_not_of(" \t\n"), end = text.find_last_not_of(" \t\n");
    return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

// Parts between commas that are in no brackets.
inline std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts;
    int depth = 0;
    std::string part;
    for (const char it : text) {
        depth += (it == '{' || it == '[') - (it == '}' || it == ']');
        if (it == ',' && depth == 0) {
            parts.push_back(trimmed(part)), part.clear();
        } else {
            part += it;
        }
    }
    if (!trimmed(part).empty()) parts.push_back(trimmed(part));
    return parts;
}

inline Operand Code::Parsed::operand(const std::string& text) {
    Operand result;
    if (text == "_") return result;
    if (text[0] == '[') {
        result.kind = Operand::ADDRESS;
        std::vector<std::string> inner = split(text.substr(1, text.size() - 2));
        const size_t plus = inner[0].find('+');
        if (plus != std::string::npos) {
            const Operand offset = operand(trimmed(inner[0].substr(plus + 1)));
            if (offset.kind != Operand::IMMEDIATE) fail("an address of two registers: %s", text.c_str());
            result.value = offset.value;
            inner[0] = trimmed(inner[0].substr(0, plus));
        }
        for (const std::string& part : inner) result.parts.push_back(operand(part));
    } else if (text[0] == '{' || text.find('|') != std::string::npos) {
        result.kind = Operand::VECTOR;
        std::string inner = text[0] == '{' ? text.substr(1, text.size() - 2) : text;
        std::replace(inner.begin(), inner.end(), '|', ',');
        for (const std::string& part : split(inner)) result.parts.push_back(operand(part));
    } else if (text.find("%%") == 0) {
        result.kind = Operand::SPECIAL, result.name = text.substr(2);
    } else if (text[0] == '%') {
        result.kind = Operand::ARGUMENT, result.index = std::atoi(text.c_str() + 1);
    } else if (text.find("0f") == 0) {
        result.kind = Operand::IMMEDIATE, result.value = strtoul(text.c_str() + 2, nullptr, 16);
    } else if (isdigit(text[0]) || text[0] == '-') {
        const bool is_float = text.find('.') != std::string::npos;
        result.kind = Operand::IMMEDIATE;
        result.value = is_float ? bits_of(strtof(text.c_str(), nullptr)) : static_cast<u64>(strtoll(text.c_str(), nullptr, 0));
    } else {
        result.negated = text[0] == '!';
        result.kind = Operand::REGISTER, result.index = register_index(result.negated ? text.substr(1) : text);
        if (result.index < 0) fail("no register %s in: %s", text.c_str(), this->text.c_str());
    }
    return result;
}

inline void Code::Parsed::parse() {
    std::string rest = text;
    while (true) {
        rest = trimmed(rest);
        if (rest.empty()) return;
        if (rest[0] == '}' || (rest[0] == '{' && rest.find(';') != std::string::npos)) {
            rest = rest.substr(1);
            continue;
        }
        const size_t end = rest.find(';');
        if (end == std::string::npos) fail("PTX without an end: %s", text.c_str());
        std::string one = trimmed(rest.substr(0, end));
        rest = rest.substr(end + 1);
        const size_t colon = one.find(':');
        Statement statement;
        if (colon != std::string::npos && one.find_first_of(" .\n") > colon && one.compare(colon, 2, "::") != 0) {
            statement.label = one.substr(0, colon);
            one = trimmed(one.substr(colon + 1));
        }
        if (one.find(".reg") == 0) {
            const size_t names = one.find_first_of(" \t", one.find('.', 4));
            for (const std::string& name : split(one.substr(names))) registers.push_back(name);
            continue;
        }
        if (one[0] == '@') {
            const size_t space = one.find(' ');
            statement.guard_negated = one[1] == '!';
            statement.guard = one.substr(1 + statement.guard_negated, space - 1 - statement.guard_negated);
            statement.guard_index = register_index(statement.guard);
            if (statement.guard_index < 0) fail("no register %s in: %s", statement.guard.c_str(), text.c_str());
            one = trimmed(one.substr(space));
        }
        const size_t space = one.find_first_of(" \t\n");
        statement.name = one.substr(0, space);
        const std::string operands = space == std::string::npos ? "" : trimmed(one.substr(space));
        if (statement.name == "bra") {
            statement.branch = operands;
            statements.push_back(statement);
            continue;
        }
        for (size_t from = 0; from <= statement.name.size();) {
            const size_t dot = std::min(statement.name.find('.', from), statement.name.size());
            statement.parts.push_back(statement.name.substr(from, dot - from));
            from = dot + 1;
        }
        for (const Known& known : instructions()) {
            const size_t length = strlen(known.name);
            if (statement.name.compare(0, length, known.name) == 0 &&
                (statement.name.size() == length || statement.name[length] == '.' || statement.name[length] == ':')) {
                statement.handler = known.handler;
            }
        }
        if (!statement.handler) fail("the instruction %s is not modelled", statement.name.c_str());
        for (const std::string& part : split(operands)) statement.operands.push_back(operand(part));
        statements.push_back(statement);
    }
}

Code::Code(const char* text) {
    auto fresh = std::make_shared<Parsed>();
    fresh->text = text;
    fresh->parse();
    parsed = fresh;
}

void Code::run(std::vector<Argument> arguments) const {
    const std::vector<Statement>& statements = parsed->statements;
    if (statements.empty()) return;
    current->trace = current->trace * 31 + reinterpret_cast<uintptr_t>(this);
    current->doing = "";
    std::vector<Value> values(parsed->registers.size());
    for (size_t i = 0; i < statements.size(); ++i) {
        const Statement& statement = statements[i];
        if (statement.guard_index >= 0 && (values[statement.guard_index] != 0) == statement.guard_negated) continue;
        if (!statement.branch.empty()) {
            for (size_t to = 0; to < statements.size(); ++to) {
                if (statements[to].label == statement.branch) i = to - 1;
            }
            continue;
        }
        current->doing = statement.name;
        Call call{statement, arguments, values};
        statement.handler(call);
    }
}

}  // namespace model
