//! The compile worker's inside: NVRTC, one job at a time.

use crate::compile::{Answer, Job, Reply};
use crate::error::{Context, Error, Result};
use crate::process;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString, c_char};
use std::io::{BufRead, Write};

/// Reads jobs as JSON lines and answers each, until the input ends.
///
/// # Errors
/// Where NVRTC cannot be loaded or the pipes break.
pub fn serve_compiles(input: &mut dyn BufRead, output: &mut dyn Write) -> Result<()> {
    // SAFETY: asks the dynamic loader only.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::failure("libnvrtc cannot be loaded"));
    }
    process::answer_lines(input, output, |job: Job| {
        let reply: Reply = compile(&job).map_err(|trouble| trouble.to_string());
        Ok((reply, false))
    })
}

/// What the compiler says; an error is this machine's.
fn compile(job: &Job) -> Result<Answer> {
    let source = CString::new(job.source.as_str()).map_err(Error::failure)?;
    let name = CString::new(job.name.as_str()).map_err(Error::failure)?;
    let program = result::create_program(&source, Some(&name)).map_err(Error::failure)?;
    // SAFETY: the program was just made, and is destroyed after its last use; its texts outlive it.
    unsafe {
        let outcome = result::compile_program(program, &job.options);
        let log = result::get_program_log(program).map(|log| text(&log)).unwrap_or_default();
        let compiled = outcome.is_ok();
        let cubin = if compiled { Some(cubin(program)) } else { None };
        result::destroy_program(program).map_err(Error::failure)?;
        if let Err(error) = outcome
            && (!is_of_the_kernel(error.0) || lacks_memory(&log))
        {
            let line = log.lines().find(|line| line.contains("error") || line.contains("fatal"));
            return Err(Error::failure(format!("NVRTC: {:?} {}", error.0, line.unwrap_or_default().trim())));
        }
        if let Some(cubin) = cubin {
            std::fs::write(&job.output, cubin?).context(|| format!("cubin {}", job.output.display()))?;
        }
        Ok(Answer { compiled, log })
    }
}

/// Whether it is the kernel that does not compile, or its options, and not the compiler that does not run.
fn is_of_the_kernel(error: sys::nvrtcResult) -> bool {
    use sys::nvrtcResult::{NVRTC_ERROR_COMPILATION, NVRTC_ERROR_INVALID_INPUT, NVRTC_ERROR_INVALID_OPTION};
    matches!(error, NVRTC_ERROR_COMPILATION | NVRTC_ERROR_INVALID_INPUT | NVRTC_ERROR_INVALID_OPTION)
}

/// Whether the log tells of memory that was not to be had, which the parts of the compiler call an error of compilation.
fn lacks_memory(log: &str) -> bool {
    let log = log.to_ascii_lowercase();
    ["out of memory", "memory allocation failure", "bad_alloc"].iter().any(|words| log.contains(words))
}

fn text(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|character| *character as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |log| log.to_string_lossy().into_owned())
}

/// # Safety
/// `program` must be compiled and not yet destroyed.
unsafe fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>> {
    let mut size = 0;
    // SAFETY: by this function's contract; the buffer has the size NVRTC asks for.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &raw mut size).result().map_err(Error::failure)?;
        let mut image = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result().map_err(Error::failure)?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_without_memory_is_told_from_a_kernel_with_an_error() {
        assert!(lacks_memory("row_softmax.cu(3): catastrophic error: out of memory\n"));
        assert!(lacks_memory("ptxas fatal   : Memory allocation failure"));
        assert!(!lacks_memory("row_softmax.cu(3): error: identifier \"memory\" is undefined"));
        assert!(!is_of_the_kernel(sys::nvrtcResult::NVRTC_ERROR_OUT_OF_MEMORY));
        assert!(!is_of_the_kernel(sys::nvrtcResult::NVRTC_ERROR_INTERNAL_ERROR));
        assert!(is_of_the_kernel(sys::nvrtcResult::NVRTC_ERROR_COMPILATION));
    }
}
