//! Whether a kernel's arguments fit each other: their types by exact name, every extent positive, and inner sizes that agree, as far
//! as a class says what its arguments are. What each argument is the design's table of tensors tells.

use super::classes::Kind;
use super::classification::Signature;
use super::dtypes::{DtypeClass, DtypeName, goes_by_result, result_type};
use super::query::Query;
use super::terms::elements;
use crate::error::{Context, Error, Result};

/// A tensor among the arguments, with its place there.
#[derive(Clone, Copy, Debug)]
struct Operand<'a> {
    place: usize,
    shape: &'a [i64],
    dtype: DtypeName<'static>,
}

impl Signature {
    /// The question to ask of a document, if there is a class to ask for, refused where the arguments fit no kernel.
    ///
    /// # Errors
    /// Where an argument has a shape without a type or the other way round, a type of no known name, or an extent that is not
    /// positive; and where an argument that the class needs is missing or does not fit those before it.
    pub(super) fn checked_query(&self) -> Result<Option<Query<'_>>> {
        let operands = self.operands()?;
        let of_arguments = || {
            let shapes: Vec<_> = operands.iter().map(|operand| operand.shape).collect();
            let dtypes: Vec<_> = operands.iter().map(|operand| operand.dtype.library_name()).collect();
            self.classify(&shapes, &dtypes)
        };
        let Some(class) = self.kernel_class.as_deref().or_else(of_arguments) else { return Ok(None) };
        fit(class, &operands).context(|| class.to_owned())?;
        let first = need(&operands, 0, "the one whose type decides").context(|| class.to_owned())?;
        // A result among the arguments is the first of its type after A and B.
        let results = operands.iter().skip(2).map(|operand| operand.dtype);
        let dtype = if goes_by_result(class) { result_type(results) } else { first.dtype };
        Ok(Some(Query { class, extents: self.extents(class), dtype }))
    }

    /// The arguments that are tensors; those that say nothing of themselves, such as numbers, are passed over.
    fn operands(&self) -> Result<Vec<Operand<'_>>> {
        let mut operands = Vec::with_capacity(self.args.len());
        for (place, tensor) in self.args.iter().enumerate() {
            let wrong = |what: String| Error::usage(format!("argument {place} {what}"));
            let (shape, name) = match (&tensor.shape, &tensor.dtype) {
                (None, None) => continue,
                (Some(shape), Some(name)) => (shape, name),
                (Some(_), None) => return Err(wrong("has a shape and no dtype".to_owned())),
                (None, Some(_)) => return Err(wrong("has a dtype and no shape".to_owned())),
            };
            if shape.iter().any(|extent| *extent <= 0) {
                return Err(wrong(format!("is {}: every extent must be positive", shown(shape))));
            }
            if elements(shape).is_none() {
                return Err(wrong(format!("is {}: more elements than 64 bits can count", shown(shape))));
            }
            let dtype = DtypeName::parse(name).context(|| format!("argument {place}"))?;
            operands.push(Operand { place, shape, dtype });
        }
        Ok(operands)
    }
}

/// Refuses arguments that do not fit each other in a kernel of that class.
fn fit(class: &str, operands: &[Operand]) -> Result<()> {
    match class {
        "matmul" | "matmul_int16" | "matmul_int4" | "matmul_fp4" | "matmul_fp8" => fit_product(class, operands),
        "matmul_int4_group" | "matmul_nvfp4" | "matmul_mxfp4" => fit_scaled_product(class, operands),
        "matmul_nvfp4_nvfp4" | "matmul_mxfp8" => fit_block_scaled_product(class, operands),
        "grouped_matmul" | "batched_matmul" | "split_k_matmul" => fit_product_of_any(class, operands),
        "attention" => fit_attention(operands),
        "elementwise" => fit_elements(operands),
        _ if Kind::of_class(class) == Kind::Rows => fit_rows(class, operands),
        _ => Ok(()),
    }
}

/// A [m,k] times B [k,n], or [k/2,n] where two weights share a byte.
fn fit_product(class: &str, operands: &[Operand]) -> Result<()> {
    let (a, b) = (need(operands, 0, "A [m, k]")?, need(operands, 1, "B")?);
    let (m, k) = matrix(a, "A [m, k]")?;
    let packed = matches!(class, "matmul_int4" | "matmul_fp4" | "matmul_int4_group" | "matmul_nvfp4" | "matmul_mxfp4");
    if packed && k % 2 != 0 {
        return Err(a.wrong("A [m, k] with an even k, since two weights share a byte"));
    }
    let layout = if packed { "B [k/2, n], two weights a byte" } else { "B [k, n]" };
    let is_byte = ["i8", "u8"].contains(&b.dtype.name());
    let wanted = match class {
        "matmul_int16" => (b.dtype.name() != "i16").then_some("int16"),
        _ if packed => (!is_byte).then_some("int8 or uint8"),
        "matmul_fp8" => {
            let eight_bits = [a, b].iter().any(|operand| operand.dtype.class() == DtypeClass::Fp8);
            (!eight_bits).then_some("float8, or A is")
        }
        _ => (b.dtype != a.dtype).then_some(a.dtype.library_name()),
    };
    if let Some(wanted) = wanted {
        return Err(b.wrong_type(&format!("{layout} is {wanted}")));
    }
    let (rows, n) = matrix(b, layout)?;
    fit_inner(b, layout, [rows, n], if packed { k / 2 } else { k }, packed.then_some(k))?;
    // Quantized weights may come with scales of a shape of their own; a third tensor of these is the result.
    match operands.get(2) {
        Some(c) if ["matmul", "matmul_int16"].contains(&class) && c.shape.len() > 1 && !c.spreads_over(&[m, n]) => {
            Err(c.wrong(&format!("C [m, n] = [{m}, {n}]")))
        }
        _ => Ok(()),
    }
}

/// The same with scales [g, n] for g groups of weights along k, where they are among the arguments, and zero points likewise.
fn fit_scaled_product(class: &str, operands: &[Operand]) -> Result<()> {
    fit_product(class, operands)?;
    let (a, b) = (need(operands, 0, "A [m, k]")?, need(operands, 1, "B")?);
    let (&[.., k], &[.., n]) = (a.shape, b.shape) else { return Err(a.wrong("A [m, k]")) };
    let Some(scales) = operands.get(2) else { return Ok(()) };
    let rows_of = |group: i64| k / group + i64::from(k % group != 0);
    let (groups, wanted, types) = match class {
        "matmul_nvfp4" => (vec![rows_of(16)], "scales [k/16, n]", vec!["fp8", "u8"]),
        "matmul_mxfp4" => (vec![rows_of(32)], "scales [k/32, n]", vec!["u8"]),
        _ => {
            let groups = [1, rows_of(32), rows_of(64), rows_of(128)];
            (groups.to_vec(), "scales [g, n], one row or one for 32, 64 or 128 weights along k", vec![a.dtype.name()])
        }
    };
    if !matches!(scales.shape, [rows, columns] if *columns == n && groups.contains(rows)) {
        return Err(scales.wrong(wanted));
    }
    if !types.contains(&scales.dtype.name()) {
        return Err(scales.wrong_type(&format!("{wanted} are {}", types.join(" or "))));
    }
    match operands.get(3) {
        Some(zeros) if class == "matmul_int4_group" && (zeros.shape != scales.shape || zeros.dtype.name() != "u8") => {
            Err(zeros.wrong("zero points, uint8 of the shape of the scales"))
        }
        _ => Ok(()),
    }
}

/// A [m,k] times B [k,n] of numbers that both have a scale for each group along k, two of them a byte or one; then, as far as they are
/// among the arguments, the scales of A and of B in whole blocks of 128 rows by four groups.
fn fit_block_scaled_product(class: &str, operands: &[Operand]) -> Result<()> {
    let is_packed = class == "matmul_nvfp4_nvfp4";
    let (a_layout, b_layout) =
        if is_packed { ("A [m, k/2], two numbers a byte", "B [k/2, n], likewise") } else { ("A [m, k]", "B [k, n]") };
    let (a, b) = (need(operands, 0, a_layout)?, need(operands, 1, b_layout)?);
    let numbers: &[&str] = if is_packed { &["i8", "u8", "float4_e2m1fn_x2"] } else { &["fp8", "float8_e4m3fn"] };
    let (group, scales) =
        if is_packed { (16, ["fp8", "float8_e4m3fn", "u8"]) } else { (32, ["fp8", "float8_e8m0fnu", "u8"]) };
    for (operand, layout) in [(a, a_layout), (b, b_layout)] {
        if !numbers.contains(&operand.dtype.name()) {
            return Err(operand.wrong_type(&format!("{layout} is {}", numbers.join(" or "))));
        }
    }
    let ((m, inner), (rows, n)) = (matrix(a, a_layout)?, matrix(b, b_layout)?);
    fit_inner(b, b_layout, [rows, n], inner, None)?;
    let per_byte = if is_packed { 2 } else { 1 };
    let blocks = |extent: i64, block: i64| extent / block + i64::from(extent % block != 0);
    for (name, place, lines) in [("A", 2, m), ("B", 3, n)] {
        let Some(operand) = operands.get(place).filter(|operand| operand.dtype.class() != DtypeClass::Fp16Bf16) else {
            return Ok(()); // the result
        };
        let wanted = format!("scales of {name}, blocks of 512 for 128 rows by four groups of {group}");
        let whole = blocks(lines, 128).checked_mul(blocks(inner, 4 * group / per_byte));
        if elements(operand.shape) != whole.and_then(|blocks| blocks.checked_mul(512)) {
            return Err(operand.wrong(&wanted));
        }
        if !scales.contains(&operand.dtype.name()) {
            return Err(operand.wrong_type(&format!("{wanted} are {}", scales.join(" or "))));
        }
    }
    Ok(())
}

/// Products whose buckets know the type alone, and grouped ones: whatever the leading extents, and how many weights share a byte,
/// the extents that are summed over agree.
fn fit_product_of_any(class: &str, operands: &[Operand]) -> Result<()> {
    let (a, b) = (need(operands, 0, "A [.., m, k]")?, need(operands, 1, "B [.., k, n]")?);
    let ([.., k], [a_outer @ .., _, _]) = (a.shape, a.shape) else { return Err(a.wrong("A [.., m, k]")) };
    let [b_outer @ .., rows, n] = b.shape else { return Err(b.wrong("B [.., k, n]")) };
    if class == "batched_matmul" && a_outer != b_outer {
        return Err(b.wrong(&format!("B [.., k, n] with the leading extents of A, {}", shown(a_outer))));
    }
    let packed = ["i8", "u8"].contains(&b.dtype.name()) && rows.checked_mul(2) == Some(*k);
    fit_inner(b, "B [.., k, n]", [*rows, *n], if packed { k / 2 } else { *k }, None)
}

/// Refuses a B of other rows than A's k asks for, with what may have been meant.
fn fit_inner(b: &Operand, layout: &str, [rows, columns]: [i64; 2], wanted: i64, unpacked: Option<i64>) -> Result<()> {
    if rows == wanted {
        return Ok(());
    }
    let hint = if columns == wanted {
        "; it would fit transposed"
    } else if unpacked == Some(rows) {
        "; it would fit packed"
    } else {
        ""
    };
    Err(b.wrong(&format!("{layout}, here [{wanted}, n]{hint}")))
}

/// Q, K and V, each [batch, heads, seq, head_dim]; several heads of Q may share one of K and V.
fn fit_attention(operands: &[Operand]) -> Result<()> {
    let layout = "[batch, heads, seq, head_dim]";
    let (q, k) = (need(operands, 0, &format!("Q {layout}"))?, need(operands, 1, &format!("K {layout}"))?);
    let &[batch, heads, _, head_dim] = q.shape else { return Err(q.wrong(&format!("Q {layout}"))) };
    for (name, operand) in [("K", Some(k)), ("V", operands.get(2))] {
        let Some(operand) = operand else { continue };
        let wanted =
            format!("{name} {layout}, here [{batch}, {heads}, kv_seq, {head_dim}] or fewer heads that divide these");
        let &[its_batch, its_heads, seq, its_head_dim] = operand.shape else { return Err(operand.wrong(&wanted)) };
        let shares = heads % its_heads == 0;
        if (its_batch, shares, its_head_dim) != (batch, true, head_dim) {
            let transposed = (its_batch, shares, seq) == (batch, true, head_dim);
            let hint = if transposed { "; it would fit transposed" } else { "" };
            return Err(operand.wrong(&(wanted + hint)));
        }
        if operand.shape != k.shape {
            return Err(operand.wrong(&format!("{name} of as many keys as K, {}", shown(k.shape))));
        }
        if operand.dtype != q.dtype {
            return Err(operand.wrong_type(&format!("{name} is of Q's type, {}", q.dtype.library_name())));
        }
    }
    Ok(())
}

/// X [.., cols] with what comes beside it.
fn fit_rows(class: &str, operands: &[Operand]) -> Result<()> {
    let x = need(operands, 0, "X [rows, cols]")?;
    let [outer @ .., cols] = x.shape else { return Err(x.wrong("X [rows, cols]")) };
    if outer.is_empty() {
        return Err(x.wrong("X [rows, cols]"));
    }
    let others = &operands[1..];
    match class {
        "row_norm_rms" | "row_norm_layer" => {
            let vectors = if class == "row_norm_rms" { &["weights"][..] } else { &["weights", "bias"] };
            for (operand, name) in others.iter().zip(vectors) {
                if operand.shape != [*cols] {
                    return Err(operand.wrong(&format!("{name} of as many as cols, [{cols}]")));
                }
            }
        }
        "row_cross_entropy" => {
            if let Some(labels) = others.first() {
                let rows = elements(outer).unwrap_or_default();
                let of_rows =
                    labels.dtype.class() == DtypeClass::Int && (labels.shape == [rows] || labels.shape == outer);
                let of_classes = labels.dtype == x.dtype && labels.shape == x.shape;
                if !of_rows && !of_classes {
                    return Err(labels.wrong(&format!("integer labels, one a row, [{rows}]")));
                }
            }
        }
        "row_softmax" => {
            if let Some(other) = others.iter().find(|other| !other.spreads_over(x.shape)) {
                return Err(other.wrong(&format!("a tensor that spreads over X, {}", shown(x.shape))));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Tensors of one shape and one type.
fn fit_elements(operands: &[Operand]) -> Result<()> {
    let x = need(operands, 0, "x")?;
    if x.shape.is_empty() {
        return Err(x.wrong("x of at least one dimension"));
    }
    for other in &operands[1..] {
        if other.shape != x.shape {
            return Err(other.wrong(&format!("a tensor of the first one's shape, {}", shown(x.shape))));
        }
        if other.dtype != x.dtype {
            return Err(other.wrong_type(&format!("all are of the first one's type, {}", x.dtype.library_name())));
        }
    }
    Ok(())
}

fn need<'a, 'b>(operands: &'b [Operand<'a>], place: usize, what: &str) -> Result<&'b Operand<'a>> {
    operands.get(place).ok_or_else(|| Error::usage(format!("tensor {place} of its arguments is missing: {what}")))
}

/// The extents of a matrix; leading ones do not matter.
fn matrix(operand: &Operand, what: &str) -> Result<(i64, i64)> {
    match operand.shape {
        [outer @ .., rows, columns] if outer.iter().all(|extent| *extent == 1) => Ok((*rows, *columns)),
        _ => Err(operand.wrong(what)),
    }
}

impl Operand<'_> {
    /// Whether it is as large as a tensor of that shape once every extent of one is repeated.
    fn spreads_over(&self, shape: &[i64]) -> bool {
        let outer = self.shape.len().saturating_sub(shape.len());
        let beyond = self.shape[..outer].iter().all(|extent| *extent == 1);
        let mut pairs = self.shape.iter().rev().zip(shape.iter().rev());
        beyond && pairs.all(|(own, wanted)| *own == 1 || own == wanted)
    }

    fn wrong(&self, wanted: &str) -> Error {
        Error::usage(format!("argument {} is {}, and not {wanted}", self.place, shown(self.shape)))
    }

    fn wrong_type(&self, wanted: &str) -> Error {
        Error::usage(format!("argument {} is {}, where {wanted}", self.place, self.dtype.library_name()))
    }
}

/// A shape for a message, as far as a line holds it.
fn shown(shape: &[i64]) -> String {
    const MOST_EXTENTS: usize = 8;
    let extents: Vec<_> = shape.iter().take(MOST_EXTENTS).map(ToString::to_string).collect();
    let more = if shape.len() > MOST_EXTENTS { ", .." } else { "" };
    format!("[{}{more}]", extents.join(", "))
}
