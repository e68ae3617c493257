//! Mistakes that kernels make, made on purpose: what a right kernel computes from altered inputs, or an altered output, is
//! what a wrong one would leave. The check against the reference must catch each; tests on the host and on a GPU see to it.

use crate::families::HostTensor;
use crate::model::{Family, Problem};

/// A rectangle of a tensor seen as rows of so many elements, as they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Elements of a row of the tensor.
    pub pitch: u64,
    /// The first row.
    pub row: u64,
    /// The first column.
    pub column: u64,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
}

impl Region {
    /// The index of its first element.
    pub fn first(&self) -> u64 {
        self.row * self.pitch + self.column
    }
}

/// What is done to a tensor. Two regions have the same extents and pitch, and nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Every element becomes zero.
    Zero(Region),
    /// The second becomes what the first is.
    Copy(Region, Region),
    /// Each becomes what the other was.
    Swap(Region, Region),
}

/// The tensor that is altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An input by its index, before the kernel runs.
    Input(usize),
    /// The output, after it.
    Output,
}

/// One change of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alteration {
    /// Which tensor.
    pub place: Place,
    /// How.
    pub change: Change,
}

/// A mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// What a kernel did wrong that left this.
    pub name: &'static str,
    /// What is altered for it.
    pub alterations: Vec<Alteration>,
}

impl Mutant {
    fn new<const N: usize>(name: &'static str, changes: [(Place, Change); N]) -> Self {
        Self { name, alterations: changes.map(|(place, change)| Alteration { place, change }).into() }
    }
}

impl Change {
    /// Makes the change on the host.
    pub fn apply(&self, tensor: &mut HostTensor) {
        match tensor {
            HostTensor::Bf16(values) => self.apply_to(values),
            HostTensor::F16(values) => self.apply_to(values),
            HostTensor::F32(values) => self.apply_to(values),
            HostTensor::I8(values) => self.apply_to(values),
            HostTensor::U8(values) => self.apply_to(values),
            HostTensor::I16(values) => self.apply_to(values),
            HostTensor::Fp8(codes) => self.apply_to(codes),
        }
    }

    fn apply_to<T: Copy + Default>(&self, values: &mut [T]) {
        let (Self::Zero(region) | Self::Copy(region, _) | Self::Swap(region, _)) = *self;
        let offsets =
            (0..region.rows).flat_map(|row| (0..region.columns).map(move |column| row * region.pitch + column));
        for offset in offsets {
            let at = |region: Region| (region.first() + offset) as usize;
            match *self {
                Self::Zero(region) => values[at(region)] = T::default(),
                Self::Copy(from, to) => values[at(to)] = values[at(from)],
                Self::Swap(one, other) => values.swap(at(one), at(other)),
            }
        }
    }
}

/// The mistakes that can be made on a problem of a family that ships. Those that its extents have no room for are left out.
pub fn mutants(problem: &Problem) -> Vec<Mutant> {
    match (problem.family.name(), problem.family.dimensions()) {
        ("attention", _) => {
            let [batch, heads, q_seq, kv_seq, head_dim, kv_heads] = problem.shape.first();
            let rows = batch * heads * q_seq;
            of_keys([batch * kv_heads, kv_seq, head_dim], rows).into_iter().chain(of_output(rows, head_dim)).collect()
        }
        (_, ["m", "n", "k"]) => {
            let [m, n, k] = problem.shape.first();
            let weights_per_element = if problem.family.packs_two_weights_a_byte() { 2 } else { 1 };
            // Of products whose operands both have scales, k lies along the rows of A and of B, and both may be packed.
            let is_block_scaled = [Family::MatmulNvfp4Nvfp4, Family::MatmulMxfp8].contains(&problem.family);
            let numbers = if is_block_scaled { weights_per_element } else { 1 };
            let along_k = |rows| {
                move |first: u64, count: u64| {
                    let [pitch, column] = [k, first].map(|extent| extent / numbers);
                    Region { pitch, row: 0, column, rows, columns: count.div_ceil(numbers) }
                }
            };
            let b = |row: u64, rows: u64| {
                let [row, rows] = [row, rows].map(|extent| extent / weights_per_element);
                Region { pitch: n, row, column: 0, rows, columns: n }
            };
            // Column-major: k lies along the rows in memory.
            let is_transposed = problem.family == Family::MatmulFp8 || is_block_scaled;
            let of_b = |first, count| if is_transposed { along_k(n)(first, count) } else { b(first, count) };
            of_sums([m, k], along_k(m), of_b).into_iter().chain(of_output(m, n)).collect()
        }
        // A number a row.
        ("row_cross_entropy", _) => {
            let [rows, cols] = problem.shape.first();
            of_columns(rows, cols).into_iter().chain(of_output(1, rows)).collect()
        }
        (_, ["rows", "cols"]) => {
            let [rows, cols] = problem.shape.first();
            of_columns(rows, cols).into_iter().chain(of_output(rows, cols)).collect()
        }
        (_, ["numel"]) => {
            let [numel] = problem.shape.first();
            of_elements(numel).into_iter().chain(of_output(1, numel)).collect()
        }
        _ => Vec::new(),
    }
}

/// The side of the tiles that change places, and the length of the blocks that are taken twice.
const BLOCK: u64 = 64;
/// So many rows have among them what shows any one k.
const MANY_ROWS: u64 = 16;

/// What goes wrong along k, of which `a` and `b` tell where A and B have so many.
fn of_sums([m, k]: [u64; 2], a: impl Fn(u64, u64) -> Region, b: impl Fn(u64, u64) -> Region) -> Vec<Mutant> {
    use Place::Input;
    let dropped = |name, column, columns| Mutant::new(name, [(Input(0), Change::Zero(a(column, columns)))]);
    let first_of_last = (k - 1) / BLOCK * BLOCK;
    let mut mutants = vec![
        dropped("the last k dropped", k - 1, 1),
        dropped("the first k of the last block dropped", first_of_last, 1),
        dropped("the first k of the second half dropped", k / 2, 1),
        dropped("a split lost", k / 2, k - k / 2),
    ];
    // One row may have next to nothing at any one k.
    if m >= MANY_ROWS {
        mutants.push(dropped("any k dropped", k / 3, 1));
    }
    if k >= 2 * BLOCK {
        let last = (k / BLOCK - 1) * BLOCK;
        mutants.push(Mutant::new(
            "a stage taken twice",
            [
                (Input(0), Change::Copy(a(last - BLOCK, BLOCK), a(last, BLOCK))),
                (Input(1), Change::Copy(b(last - BLOCK, BLOCK), b(last, BLOCK))),
            ],
        ));
    }
    mutants
}

/// What goes wrong along the keys, for `rows` queries in all.
fn of_keys([batch_heads, kv_seq, head_dim]: [u64; 3], rows: u64) -> Vec<Mutant> {
    use Place::Input;
    let keys = |first: u64, count: u64| Region {
        pitch: kv_seq * head_dim,
        row: 0,
        column: first * head_dim,
        rows: batch_heads,
        columns: count * head_dim,
    };
    let last_of_head = Region { pitch: head_dim, row: 0, column: head_dim - 1, rows, columns: 1 };
    let mut mutants = vec![Mutant::new("the last of the head left out", [(Input(0), Change::Zero(last_of_head))])];
    if kv_seq >= 2 {
        let half = kv_seq / 2;
        let block = half.min(16);
        let [first, last] = [keys(0, block), keys(kv_seq - block, block)];
        let twice = |one, other| [(Input(1), Change::Copy(one, other)), (Input(2), Change::Copy(one, other))];
        mutants.extend([
            Mutant::new("the last key dropped for another", twice(keys(0, 1), keys(kv_seq - 1, 1))),
            Mutant::new("a stage of keys and values taken twice", twice(first, last)),
            Mutant::new("a stage of keys taken twice", [(Input(1), Change::Copy(first, last))]),
            Mutant::new("a stage of values taken twice", [(Input(2), Change::Copy(first, last))]),
            Mutant::new("two stages of keys swapped", [(Input(1), Change::Swap(first, last))]),
            Mutant::new("a split lost for another", twice(keys(0, half), keys(kv_seq - half, half))),
        ]);
    }
    mutants
}

/// What goes wrong along the columns of rows.
fn of_columns(rows: u64, cols: u64) -> Vec<Mutant> {
    let column = |column, columns| Region { pitch: cols, row: 0, column, rows, columns };
    let twice = |name, columns| {
        let change = Change::Copy(column(0, columns), column(cols - columns, columns));
        Mutant::new(name, [(Place::Input(0), change)])
    };
    if cols < 16 {
        return Vec::new();
    }
    vec![twice("the last column dropped for another", 1), twice("a step of columns taken twice", 8)]
}

/// What goes wrong when elements are read.
fn of_elements(numel: u64) -> Vec<Mutant> {
    let region = |column, columns| Region { pitch: numel, row: 0, column, rows: 1, columns };
    let input = |name, index, change| Mutant::new(name, [(Place::Input(index), change)]);
    let mut mutants = vec![input("the last element left out", 1, Change::Zero(region(numel - 1, 1)))];
    if numel >= 2 * BLOCK {
        let last = region(numel - BLOCK, BLOCK);
        mutants.push(input("a tile read twice", 0, Change::Copy(region(0, BLOCK), last)));
    }
    mutants
}

/// What goes wrong when an output of so many rows is written.
fn of_output(rows: u64, cols: u64) -> Vec<Mutant> {
    let region = |row, column, rows, columns| Region { pitch: cols, row, column, rows, columns };
    let output = |name, change| Mutant::new(name, [(Place::Output, change)]);
    let [corner_rows, corner_cols] = [rows, cols].map(|extent| extent.min(8));
    let mut mutants = vec![
        output("one element not written", Change::Zero(region(rows / 2, cols / 2, 1, 1))),
        output("the last column not written", Change::Zero(region(0, cols - 1, rows, 1))),
        output(
            "a corner not written",
            Change::Zero(region(rows - corner_rows, cols - corner_cols, corner_rows, corner_cols)),
        ),
    ];
    let tile_rows = rows.min(BLOCK);
    if cols >= 2 * BLOCK {
        let [one, other] = [0, BLOCK].map(|column| region(0, column, tile_rows, BLOCK));
        mutants.push(output("two tiles of a row swapped", Change::Swap(one, other)));
        mutants.push(output("a tile of a row taken twice", Change::Copy(one, other)));
    }
    if rows >= 2 {
        let [first, last] = [0, rows - 1].map(|row| region(row, 0, 1, cols));
        mutants.push(output("the last row not written", Change::Zero(last)));
        mutants.push(output("a row written twice", Change::Copy(first, last)));
        mutants.push(output("two rows swapped", Change::Swap(first, last)));
    }
    if rows >= 2 * BLOCK {
        let [one, other] = [0, BLOCK].map(|row| region(row, 0, BLOCK, cols.min(BLOCK)));
        mutants.push(output("two tiles of a column swapped", Change::Swap(one, other)));
    }
    mutants
}
