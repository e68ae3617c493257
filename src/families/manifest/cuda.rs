//! What a source of CUDA C++ says of itself, without a compiler: the names of its kernels, for whoever looks for one that it lacks.

use super::ptx::without_comments;
use super::read_text;
use crate::families::Code;
#[cfg(feature = "harness")]
use crate::families::KernelSpec;

/// The kernels of somebody else's source, templates too, by their names; none of any other code, or where it cannot be read.
pub(super) fn kernels(code: &Code) -> Vec<String> {
    let Code::Cuda { file, .. } = code else { return Vec::new() };
    read_text(file).map_or(Vec::new(), |text| kernels_of(&text))
}

fn kernels_of(text: &str) -> Vec<String> {
    let text = without_comments(text);
    let mut names: Vec<String> = text.split("__global__").skip(1).filter_map(declared).map(str::to_owned).collect();
    names.dedup();
    names
}

/// The name that stands before the parameters of what is declared, after attributes with parentheses of their own:
/// `void __launch_bounds__(256) scale(float *x)`.
fn declared(mut rest: &str) -> Option<&str> {
    loop {
        let (before, after) = rest.split_once('(')?;
        if before.contains([';', '{', '}']) {
            return None;
        }
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let before = before.trim_end();
        let name = &before[before.rfind(|letter| !is_part(letter)).map_or(0, |place| place + 1)..];
        if !name.starts_with("__") {
            return Some(name).filter(|name| !name.is_empty());
        }
        let mut depth = 1;
        let end = after.find(|letter| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            depth == 0
        });
        rest = &after[end? + 1..];
    }
}

/// What a compiler says of a kernel, in one line: that of the expression its function is known by names the kernels there are.
#[cfg(feature = "harness")]
pub(crate) fn explained(kernel: &KernelSpec, error: &str) -> String {
    /// The file that NVRTC makes up for name expressions.
    const EXPRESSIONS: &str = "__nv_name_map";
    let Some((_, why)) = error.strip_prefix(EXPRESSIONS).and_then(|rest| rest.split_once(": error: ")) else {
        return error.to_owned();
    };
    let names = kernels(&kernel.code);
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("{} has no entry '{}' ({why}); it has {names}", kernel.code, kernel.entry)
}

#[cfg(all(test, feature = "harness"))]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_by_their_names_whatever_stands_around_them() {
        let text = "// __global__ void none(int)\n\
            extern \"C\" __global__ void plain(float *x) { x[0] = f(x); }\n\
            template <int N, typename T>\n__global__ void __launch_bounds__(N * (32), 2) /* a (comment */ scaled(T *x) {}\n\
            __global__ __cluster_dims__(2, 1, 1) void\nclustered (int n);\n\
            #define KERNEL __global__\nKERNEL void hidden(int n) {}";
        assert_eq!(kernels_of(text), ["plain", "scaled", "clustered", "hidden"]);
        assert!(kernels_of("__device__ int f(int n);").is_empty());
    }

    #[test]
    fn an_expression_that_names_nothing_is_told_with_what_there_is() {
        let kernel = KernelSpec::shipped("scale.cu", "scale<4>", []);
        let told = explained(&kernel, "__nv_name_map(2): error: identifier \"scale\" is undefined");
        assert_eq!(told, "scale.cu has no entry 'scale<4>' (identifier \"scale\" is undefined); it has none");
        let other = "scale.cu(3): error: expected a ;";
        assert_eq!(explained(&kernel, other), other);
    }
}
