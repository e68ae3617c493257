//! What an operator is called with: its tensors as Python has them, and the problem and the tensors that its kernels have for them.

use crate::error::{Error, Result};
use crate::model::{Dtype, Family, Problem};
use crate::run::Element;

/// Extents of a tensor, and dimensions of a problem, at most.
pub(super) const MOST_EXTENTS: usize = 8;
/// Inputs of an operator at most.
pub(super) const MOST_INPUTS: usize = 6;

/// Products whose weights come with scales, which follow them.
const SCALED: [Family; 3] = [Family::MatmulInt4Group, Family::MatmulNvfp4, Family::MatmulMxfp4];
/// Products whose operands both have scales for groups along k, in whole blocks of 128 rows by four groups. The type of such a problem is
/// its result's.
const BLOCK_SCALED: [Family; 2] = [Family::MatmulNvfp4Nvfp4, Family::MatmulMxfp8];

/// A list on the stack, zero beyond its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Extents {
    extents: [u64; MOST_EXTENTS],
    rank: usize,
}

impl Extents {
    fn of(list: &[u64]) -> Self {
        let mut extents = Self::default();
        for extent in list {
            extents.push(*extent);
        }
        extents
    }

    /// Whatever goes beyond the most is left out: no operator takes so many.
    pub(super) fn push(&mut self, extent: u64) {
        if let Some(place) = self.extents.get_mut(self.rank) {
            *place = extent;
            self.rank += 1;
        }
    }

    pub(super) fn list(&self) -> &[u64] {
        &self.extents[..self.rank]
    }
}

/// What the bytes of an input stand for, beside what the names of types say that every library has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codes {
    /// What its type says.
    Plain,
    /// Two E2M1 numbers each.
    E2m1,
    /// E4M3 numbers, which are bytes where a library has no name for them.
    E4m3,
    /// Scales in E4M3, bytes to kernels.
    E4m3Scales,
    /// Scales in E8M0, likewise.
    E8m0Scales,
}

/// How an operator takes one of its tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) codes: Codes,
    /// Whether a matrix lies column after column, as `torch._scaled_mm` takes it.
    pub(super) is_by_columns: bool,
}

impl Part {
    pub(super) const OUTPUT: Self = Self { codes: Codes::Plain, is_by_columns: false };

    pub(super) fn of(family: Family, place: usize) -> Self {
        let codes = match (family, place) {
            (Family::MatmulFp8 | Family::MatmulMxfp8, 0 | 1) => Codes::E4m3,
            (Family::MatmulFp4 | Family::MatmulNvfp4 | Family::MatmulMxfp4 | Family::MatmulNvfp4Nvfp4, 1)
            | (Family::MatmulNvfp4Nvfp4, 0) => Codes::E2m1,
            (Family::MatmulNvfp4 | Family::MatmulNvfp4Nvfp4, 2) | (Family::MatmulNvfp4Nvfp4, 3) => Codes::E4m3Scales,
            (Family::MatmulMxfp4 | Family::MatmulMxfp8, 2) | (Family::MatmulMxfp8, 3) => Codes::E8m0Scales,
            _ => Codes::Plain,
        };
        let is_b = place == 1 && (family == Family::MatmulFp8 || BLOCK_SCALED.contains(&family));
        Self { codes, is_by_columns: is_b || (family, place) == (Family::MatmulFp8, 2) }
    }

    /// Refuses a tensor that does not lie in memory as kernels read it; strides count elements.
    pub(super) fn check_order(self, shape: &[u64], strides: &[i64]) -> Result<(), String> {
        if self.is_by_columns && shape.len() == 2 {
            if is_dense(shape.iter().zip(strides)) {
                return Ok(());
            }
            return Err(format!("a matrix of shape {shape:?} is not column-major: give the .t() of a contiguous one"));
        }
        if is_dense(shape.iter().zip(strides).rev()) {
            return Ok(());
        }
        Err(format!("a tensor of shape {shape:?} is not contiguous: give its .contiguous()"))
    }
}

/// Whether axes, the fastest first, lie without gaps. A stride along which there is but one element says nothing.
fn is_dense<'a>(mut axes: impl Iterator<Item = (&'a u64, &'a i64)>) -> bool {
    let mut wanted = 1;
    axes.all(|(extent, stride)| {
        let is_right = *extent <= 1 || *stride == wanted;
        wanted = times(wanted, *extent);
        is_right
    })
}

/// A stride of so many times as much, as far as it can be said.
pub(super) fn times(stride: i64, extent: u64) -> i64 {
    stride.saturating_mul(i64::try_from(extent).unwrap_or(i64::MAX))
}

/// A tensor of Python's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) address: u64,
    pub(super) element: Element,
    pub(super) shape: Extents,
}

/// What attention's queries see of the keys: those up to their own, and at most so many of them, where that is not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mask {
    pub(super) causal: bool,
    pub(super) window: u64,
}

/// What an operator computes, and its tensors as its kernels see them.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) dtype: Dtype,
    /// The problem's extents, zero beyond the last.
    pub(super) problem: [u64; MOST_EXTENTS],
    dimensions: usize,
    pub(super) inputs: [Extents; MOST_INPUTS],
    pub(super) output: Extents,
    pub(super) output_element: Element,
    /// The output's shape as Python is given it.
    pub(super) output_shape: Extents,
}

/// What the shapes of an operator's inputs say.
struct Fit {
    problem: Vec<u64>,
    /// The inputs as kernels see them.
    inputs: [Extents; MOST_INPUTS],
    output: Extents,
    output_shape: Extents,
}

impl Fit {
    fn new(problem: &[u64], inputs: &[&[u64]], output: &[u64], output_shape: &[u64]) -> Self {
        let mut fit = Self {
            problem: problem.to_vec(),
            inputs: [Extents::default(); MOST_INPUTS],
            output: Extents::of(output),
            output_shape: Extents::of(output_shape),
        };
        fit.inputs.iter_mut().zip(inputs).for_each(|(input, flat)| *input = Extents::of(flat));
        fit
    }

    /// Of a product, whose output has the leading extents of A.
    fn product(problem: &[u64], inputs: &[&[u64]], leading: &[u64]) -> Self {
        let [m, n] = [problem[0], problem[1]];
        Self::new(problem, inputs, &[m, n], &[leading, &[n]].concat())
    }
}

/// Elements of a tensor with these extents.
fn count(extents: &[u64]) -> u64 {
    extents.iter().fold(1, |count: u64, extent| count.saturating_mul(*extent))
}

/// Whether a tensor has one element, in one dimension or in none.
fn is_number(shape: &[u64]) -> bool {
    matches!(shape, [] | [1])
}

impl Call {
    /// Of the inputs' shapes and types, where they fit each other, and what of the result's type and of attention's mask they do not
    /// tell.
    pub(super) fn new(family: Family, inputs: &[Given], result: Element, mask: Mask) -> Result<Self, String> {
        if mask != Mask::default() && family != Family::Attention {
            return Err(format!("{family} has no mask"));
        }
        let shapes: Vec<&[u64]> = inputs.iter().map(|input| input.shape.list()).collect();
        let dtype: Dtype = match inputs.first().map(|input| input.element) {
            Some(_) if BLOCK_SCALED.contains(&family) => result,
            Some(element) if element.is_float() => element,
            _ => {
                let types: Vec<_> = family.dtypes().iter().map(|dtype| dtype.name()).collect();
                return Err(format!("{family}: its first tensor must be {}", types.join(" or ")));
            }
        };
        let output_element = match family {
            Family::RowCrossEntropy => Element::F32,
            Family::MatmulFp8 => Element::Bf16,
            _ => dtype,
        };
        let Fit { problem: extents, inputs, output, output_shape } =
            fit(family, &shapes, mask).map_err(|wanted| format!("{family}: {shapes:?} are no shapes of {wanted}"))?;
        let (mut problem, dimensions) = ([0; MOST_EXTENTS], extents.len());
        problem[..dimensions].copy_from_slice(&extents);
        Ok(Self { dtype, problem, dimensions, inputs, output, output_element, output_shape })
    }

    pub(super) fn problem(&self, family: Family) -> Result<Problem> {
        let extents = self.problem[..self.dimensions].iter();
        let named: Result<Vec<_>> = family
            .all_dimensions()
            .zip(extents)
            .map(|(name, extent)| Ok((name, i64::try_from(*extent).map_err(Error::usage)?)))
            .collect();
        Problem::new(family, &named?, self.dtype)
    }
}

/// What an operator's shapes say, or what they should be.
fn fit(family: Family, shapes: &[&[u64]], mask: Mask) -> Result<Fit, &'static str> {
    match family.dimensions() {
        ["m", "n", "k"] if SCALED.contains(&family) => fit_scaled_weights(family, shapes),
        ["m", "n", "k"] if BLOCK_SCALED.contains(&family) => fit_block_scaled(family, shapes),
        ["m", "n", "k"] if family == Family::MatmulFp8 => fit_fp8(shapes),
        ["m", "n", "k"] => fit_product(family, shapes),
        ["batch", "heads", "q_seq", "kv_seq", "head_dim"] => fit_attention(shapes, mask),
        ["rows", "cols"] => fit_rows(family, shapes),
        ["numel"] => match shapes {
            [x, y] if x == y => {
                let flat = [count(x)];
                Ok(Fit::new(&flat, &[&flat, &flat], &flat, x))
            }
            _ => Err("X and Y, which are the same"),
        },
        _ => Err("any operator"),
    }
}

fn fit_product(family: Family, shapes: &[&[u64]]) -> Result<Fit, &'static str> {
    let [[leading @ .., k], [b_rows, n]] = shapes else { return Err("A [..., k] and B of two dimensions") };
    let per_row = if family.packs_two_weights_a_byte() { 2 } else { 1 };
    if b_rows.checked_mul(per_row) != Some(*k) {
        return Err(if per_row == 2 { "A [..., k] and B [k / 2, n]" } else { "A [..., k] and B [k, n]" });
    }
    let m = count(leading);
    Ok(Fit::product(&[m, *n, *k], &[&[m, *k], &[*b_rows, *n]], leading))
}

fn fit_scaled_weights(family: Family, shapes: &[&[u64]]) -> Result<Fit, &'static str> {
    const WANTED: &str = "A [..., k], B [k / 2, n], scales [k / group, n] and what else its weights have";
    let [[leading @ .., k], b @ [b_rows, n], scales @ [rows_of_scales, columns], others @ ..] = shapes else {
        return Err(WANTED);
    };
    let m = count(leading);
    let a = [m, *k];
    let mut problem = vec![m, *n, *k];
    let mut flat: Vec<&[u64]> = vec![&a, b, scales];
    let is_right = match (family, others) {
        (Family::MatmulNvfp4, [factor]) => {
            flat.push(&[1]);
            is_number(factor)
        }
        (Family::MatmulMxfp4, []) => true,
        (Family::MatmulInt4Group, [] | [_]) => {
            let group = [128, 64, 32].into_iter().find(|group| k.div_ceil(*group) == *rows_of_scales);
            // One row is for all weights along k.
            problem.extend([group.unwrap_or(u64::from(*rows_of_scales != 1)), others.len() as u64]);
            flat.extend(others);
            others.iter().all(|zeros| zeros == scales)
        }
        _ => false,
    };
    if b_rows.checked_mul(2) != Some(*k) || columns != n || !is_right {
        return Err(WANTED);
    }
    Ok(Fit::product(&problem, &flat, leading))
}

fn fit_fp8(shapes: &[&[u64]]) -> Result<Fit, &'static str> {
    const WANTED: &str =
        "A [..., k], B [k, n] and their scales: one each, [m, 1] and [1, n], or [m, k / 128] and [n / 128, k / 128]";
    let [[leading @ .., k], [b_rows, n], a_scales, b_scales] = shapes else { return Err(WANTED) };
    let m = count(leading);
    let scales = fp8_scales(leading, [m, *n, *k], a_scales, b_scales);
    let (true, Some((scale_block, [a_scales, b_scales]))) = (b_rows == k, scales) else { return Err(WANTED) };
    // B lies in memory column after column.
    Ok(Fit::product(&[m, *n, *k, scale_block], &[&[m, *k], &[*n, *k], &a_scales, &b_scales], leading))
}

/// What shares a scale of E4M3 operands, as `scale_block` says it (see [`Family::MatmulFp8`]), and the scales' shapes as they lie in
/// memory. Where two readings fit, each shares the same scales between the same elements.
fn fp8_scales(leading: &[u64], [m, n, k]: [u64; 3], of_a: &[u64], of_b: &[u64]) -> Option<(u64, [Vec<u64>; 2])> {
    let [n_blocks, k_blocks] = [n, k].map(|extent| extent.div_ceil(128));
    let is_one = |scales: &[u64]| scales.iter().all(|extent| *extent == 1);
    let is_of_rows = of_a == [m] || of_a.split_last().is_some_and(|(last, others)| *last == 1 && others == leading);
    if is_one(of_a) && is_one(of_b) {
        Some((0, [vec![1], vec![1]]))
    } else if is_of_rows && (of_b == [n] || of_b == [1, n]) {
        Some((1, [vec![m], vec![n]]))
    } else if of_a == [m, k_blocks] && of_b == [n_blocks, k_blocks] {
        Some((128, [vec![k_blocks, m], vec![n_blocks, k_blocks]]))
    } else {
        None
    }
}

fn fit_block_scaled(family: Family, shapes: &[&[u64]]) -> Result<Fit, &'static str> {
    let is_packed = family.packs_two_weights_a_byte();
    let wanted = if is_packed {
        "A [..., k / 2], B [k / 2, n], their scales in blocks of 128 rows by 64 of k, 512 bytes each, and a factor each"
    } else {
        "A [..., k], B [k, n] and their scales in blocks of 128 rows by 128 of k, 512 bytes each"
    };
    let [[leading @ .., a_cols], [b_rows, n], a_scales, b_scales, factors @ ..] = shapes else { return Err(wanted) };
    let (per_byte, block, factor_count) = if is_packed { (2, 64, 2) } else { (1, 128, 0) };
    let (m, k) = (count(leading), a_cols.saturating_mul(per_byte));
    let blocks = |lines: u64| [lines.div_ceil(128), k.div_ceil(block), 32, 16];
    let (of_a, of_b) = (blocks(m), blocks(*n));
    let are_blocks = count(a_scales) == count(&of_a) && count(b_scales) == count(&of_b);
    let are_factors = factors.len() == factor_count && factors.iter().all(|factor| is_number(factor));
    if b_rows != a_cols || !are_blocks || !are_factors {
        return Err(wanted);
    }
    let (a, b) = ([m, *a_cols], [*n, *b_rows]);
    let flat: [&[u64]; 6] = [&a, &b, &of_a, &of_b, &[1], &[1]];
    Ok(Fit::product(&[m, *n, k], &flat[..4 + factor_count], leading))
}

fn fit_attention(shapes: &[&[u64]], mask: Mask) -> Result<Fit, &'static str> {
    let [q @ [batch, heads, q_seq, head_dim], keys @ [b, kv_heads, kv_seq, d], values] = shapes else {
        return Err("Q, K and V of four dimensions each");
    };
    let is_shared = *kv_heads > 0 && heads.is_multiple_of(*kv_heads);
    if !is_shared || [b, d] != [batch, head_dim] || keys != values {
        return Err("Q [batch, heads, q_seq, head_dim], K and V [batch, heads or a part, kv_seq, head_dim]");
    }
    let problem = [*batch, *heads, *q_seq, *kv_seq, *head_dim, *kv_heads, mask.causal.into(), mask.window];
    Ok(Fit::new(&problem, &[q, keys, values], q, q))
}

fn fit_rows(family: Family, shapes: &[&[u64]]) -> Result<Fit, &'static str> {
    let [whole @ [leading @ .., cols], others @ ..] = shapes else { return Err("X [..., cols]") };
    let (x, one_a_row) = ([count(leading), *cols], [count(leading)]);
    let are_vectors = others.iter().all(|vector| *vector == [*cols]);
    match (family, others) {
        (Family::RowSoftmax, []) => Ok(Fit::new(&x, &[&x], &x, whole)),
        (Family::RowNormRms, [weight]) if are_vectors => Ok(Fit::new(&x, &[&x, weight], &x, whole)),
        (Family::RowNormLayer, [weight, bias]) if are_vectors => Ok(Fit::new(&x, &[&x, weight, bias], &x, whole)),
        (Family::RowCrossEntropy, [targets]) if *targets == leading => {
            Ok(Fit::new(&x, &[&x, &one_a_row], &one_a_row, leading))
        }
        (Family::RowNormRms, _) => Err("X [..., cols] and WEIGHT [cols]"),
        (Family::RowNormLayer, _) => Err("X [..., cols], WEIGHT [cols] and BIAS [cols]"),
        (Family::RowCrossEntropy, _) => Err("X [..., cols] and TARGETS [...], one a row"),
        _ => Err("X [..., cols]"),
    }
}
