//! What rounding explains of a difference between a kernel's output and its reference.

/// The largest relative error of rounding to f32: half a unit in the last of 24 places.
pub(super) const F32: f64 = f32::EPSILON as f64 / 2.0;
/// The same of bf16: half a unit in the last of 8 places.
pub(super) const BF16: f64 = 1.0 / 256.0;

/// The same of f16: half a unit in the last of 11 places.
pub(super) const F16: f64 = 1.0 / 2048.0;

/// The right output of a problem, and how far from it an output may be that is right too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reference {
    /// Each element's value.
    pub values: Vec<f64>,
    /// By how much each element may differ from it before it is rounded to the output's type: what the order and the
    /// precision of a kernel's arithmetic explain, several times over.
    pub allowed: Vec<f64>,
}

impl FromIterator<(f64, f64)> for Reference {
    fn from_iter<T: IntoIterator<Item = (f64, f64)>>(elements: T) -> Self {
        let (values, allowed) = elements.into_iter().unzip();
        Self { values, allowed }
    }
}
