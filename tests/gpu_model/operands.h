// Operands of products in shared memory, by the descriptors that name them. Sections are those of the PTX ISA 9.2 manual.
#pragma once

#include "copy_engine.h"

namespace model {

// Where element (index, k) lies, by the canonical layouts (9.7.15.5.1 and 9.7.16.5.1).
struct SharedOperand {
    u32 start, leading, stride;
    int line_bytes, element_bytes;
    bool mn_major;

    // What the descriptors of both generations have in common.
    SharedOperand(u64 bits, int line_bytes, bool mn_major, int element_bytes)
        : line_bytes(line_bytes), element_bytes(element_bytes), mn_major(mn_major) {
        if (mn_major && element_bytes != 2) fail("an MN-major operand of %d bytes an element is not modelled", element_bytes);
        if (line_bytes == 0) fail("an operand's descriptor %016llx with a swizzle that is not modelled", bits);
        start = (bits & 0x3FFF) << 4, leading = (bits >> 16 & 0x3FFF) << 4, stride = (bits >> 32 & 0x3FFF) << 4;
    }
    u32 at(int index, int k) const {
        const int elements = line_bytes / 2;
        const u32 offset = mn_major ? index / elements * leading + index % elements * 2 + k % 8 * line_bytes + k / 8 * stride
                                    : index / 8 * stride + index % 8 * line_bytes + k * element_bytes;
        return swizzle(start + offset, line_bytes);
    }
};

// Of tcgen05.mma (9.7.16.4.1, table 40).
inline SharedOperand operand_of_tcgen05(u64 bits, bool mn_major, int element_bytes) {
    if ((bits >> 46 & 7) != 1) fail("an operand's descriptor without its constant 1 in bits 46-48");
    if ((bits >> 49 & 0xFFF) != 0) fail("an operand's descriptor with a base offset or reserved bits");
    const int swizzle = static_cast<int>(bits >> 61);
    return {bits, swizzle == 2 ? 128 : swizzle == 4 ? 64 : swizzle == 6 ? 32 : 0, mn_major, element_bytes};
}

// Of wgmma (9.7.15.5.1.2).
inline SharedOperand operand_of_wgmma(u64 bits, bool mn_major, int element_bytes) {
    if ((bits >> 46 & 0xFFFF) != 0) fail("an operand's descriptor with a base offset or reserved bits");
    const int swizzle = static_cast<int>(bits >> 62);
    return {bits, swizzle == 1 ? 128 : swizzle == 2 ? 64 : swizzle == 3 ? 32 : 0, mn_major, element_bytes};
}

}  // namespace model
