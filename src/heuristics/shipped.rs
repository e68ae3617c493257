//! The classes that are known without a document.

/// The classes that classification knows: the families and their kin of other tools.
pub const CLASSES: [&str; 19] = [
    "matmul",
    "matmul_int4",
    "matmul_int16",
    "matmul_fp4",
    "matmul_fp8",
    "grouped_matmul",
    "batched_matmul",
    "split_k_matmul",
    "attention",
    "row_softmax",
    "row_norm_rms",
    "row_norm_layer",
    "row_cross_entropy",
    "elementwise",
    "matmul_int4_group",
    "matmul_nvfp4",
    "matmul_mxfp4",
    "matmul_nvfp4_nvfp4",
    "matmul_mxfp8",
];

/// Whether a class is one of ours, or one that classification knows; those of rows go by rows whatever follows.
pub(super) fn is_shipped(class: &str) -> bool {
    CLASSES.contains(&class) || class.starts_with("row_")
}
