//! NVRTC in this process: the compile worker's inside, and what compiles where a kernel is to run at once. Several threads may compile
//! at once, each a program of its own, as NVRTC's guide has it of version 12.3 and later.

#[cfg(feature = "harness")]
use crate::compile::Reply;
use crate::compile::{Answer, Job, Nvrtc};
use crate::error::{Context, Error, Result};
#[cfg(feature = "harness")]
use crate::process;
use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_int};
#[cfg(feature = "harness")]
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

/// The version of its interface that this is written for.
const MAJOR: c_int = 13;

/// Reads jobs as JSON lines and answers each, until the input ends. `$SWEEP_NVRTC` is the library's path. Where it cannot be
/// used, that is every answer.
///
/// # Errors
/// Where the pipes break.
#[cfg(feature = "harness")]
pub fn serve_compiles(input: &mut dyn BufRead, output: &mut dyn Write) -> Result<()> {
    let library = PathBuf::from(std::env::var_os(Nvrtc::VARIABLE).unwrap_or_default());
    let compiler = LoadedNvrtc::open(&Nvrtc { library });
    process::answer_lines(input, output, |job: Job| {
        let answer = compiler.as_ref().map_err(Clone::clone).and_then(|compiler| compiler.compile(&job));
        let reply: Reply = answer.map_err(|trouble| trouble.to_string());
        Ok((reply, false))
    })
}

/// What every call of its interface returns: 0 where all is well.
type Status = c_int;

/// NVRTC, loaded from one path, whatever else of that name the loader knows.
pub struct LoadedNvrtc {
    library: Library,
    /// It would be looked for by its name; being there already, it is the one of the same folder.
    _builtins: Library,
}

impl LoadedNvrtc {
    /// Loads it.
    ///
    /// # Errors
    /// Where it cannot be loaded, or is another version than this is written for.
    pub fn open(nvrtc: &Nvrtc) -> Result<Self> {
        let path = nvrtc.library.as_path();
        if !path.is_absolute() {
            return Err(Error::usage(format!("{} is no absolute path", path.display())));
        }
        let library = load(path)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the function is NVRTC's own of this type, and writes the two numbers.
        let status = unsafe {
            let version: Symbol<unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status> =
                symbol(&library, "nvrtcVersion")?;
            version(&raw mut major, &raw mut minor)
        };
        if status != 0 || major != MAJOR {
            return Err(Error::usage(format!(
                "it is version {major}.{minor}, and this tool needs {MAJOR}; set SWEEP_NVRTC to one of those"
            )));
        }
        let builtins = load(&builtins(path, &format!("so.{major}.{minor}")))?;
        Ok(Self { library, _builtins: builtins })
    }

    /// What the compiler says of a kernel.
    ///
    /// # Errors
    /// Where the machine keeps it from saying anything.
    pub fn compile(&self, job: &Job) -> Result<Answer> {
        let (source, name) = (c_string(&job.source)?, c_string(&job.name)?);
        let options = job.options.iter().map(|option| c_string(option)).collect::<Result<Vec<_>>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: nvrtcProgram = std::ptr::null_mut();
        // SAFETY: each function is NVRTC's own of this type; the texts outlive the program, which is destroyed after its last use.
        unsafe {
            let create: Symbol<
                unsafe extern "C" fn(
                    *mut nvrtcProgram,
                    *const c_char,
                    *const c_char,
                    c_int,
                    *const *const c_char,
                    *const *const c_char,
                ) -> Status,
            > = symbol(&self.library, "nvrtcCreateProgram")?;
            let compile: Symbol<unsafe extern "C" fn(nvrtcProgram, c_int, *const *const c_char) -> Status> =
                symbol(&self.library, "nvrtcCompileProgram")?;
            let destroy: Symbol<unsafe extern "C" fn(*mut nvrtcProgram) -> Status> =
                symbol(&self.library, "nvrtcDestroyProgram")?;
            let none = std::ptr::null();
            self.done(create(&raw mut program, source.as_ptr(), name.as_ptr(), 0, none, none))?;
            let expression = job.expression.as_deref().map(c_string).transpose()?;
            if let Some(expression) = &expression {
                let add: Symbol<unsafe extern "C" fn(nvrtcProgram, *const c_char) -> Status> =
                    symbol(&self.library, "nvrtcAddNameExpression")?;
                self.done(add(program, expression.as_ptr()))?;
            }
            let compiled = compile(program, options.len() as c_int, options.as_ptr());
            let log = self.bytes(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").map(|log| text(&log));
            let log = log.unwrap_or_default();
            let cubin = (compiled == 0).then(|| self.bytes(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")).transpose();
            let entry =
                expression.filter(|_| compiled == 0).map(|expression| self.lowered(program, &expression)).transpose();
            self.done(destroy(&raw mut program))?;
            if !is_of_the_kernel(compiled) || lacks_memory(&log) {
                self.done(compiled).context(|| format!("NVRTC {}", log.trim()))?;
            }
            Ok(Answer { cubin: cubin?, entry: entry?, log })
        }
    }

    /// The name in the cubin of what an expression names.
    ///
    /// # Safety
    /// `program` must be compiled with that expression, and not be destroyed yet.
    unsafe fn lowered(&self, program: nvrtcProgram, expression: &CStr) -> Result<String> {
        let mut name = std::ptr::null();
        // SAFETY: by this function's contract; the text lives as long as the program.
        unsafe {
            let get: Symbol<unsafe extern "C" fn(nvrtcProgram, *const c_char, *mut *const c_char) -> Status> =
                symbol(&self.library, "nvrtcGetLoweredName")?;
            self.done(get(program, expression.as_ptr(), &raw mut name))?;
            Ok(CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    /// What a pair of functions gives of a program: one its size, the other its bytes.
    ///
    /// # Safety
    /// `program` must not be destroyed yet, and the functions be such a pair.
    unsafe fn bytes(&self, program: nvrtcProgram, size: &str, get: &str) -> Result<Vec<u8>> {
        let mut length = 0usize;
        // SAFETY: by this function's contract; the buffer has the size NVRTC asks for.
        unsafe {
            let size: Symbol<unsafe extern "C" fn(nvrtcProgram, *mut usize) -> Status> = symbol(&self.library, size)?;
            let get: Symbol<unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> Status> = symbol(&self.library, get)?;
            self.done(size(program, &raw mut length))?;
            let mut bytes = vec![0u8; length];
            self.done(get(program, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }

    /// The error of a call, in NVRTC's words.
    fn done(&self, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the function is NVRTC's own of this type, and returns a text that is never freed.
        let words = unsafe {
            let words: Symbol<unsafe extern "C" fn(Status) -> *const c_char> =
                symbol(&self.library, "nvrtcGetErrorString")?;
            CStr::from_ptr(words(status)).to_string_lossy().into_owned()
        };
        Err(Error::failure(words))
    }
}

/// Whether it is the kernel that does not compile, or its options, and not the compiler that does not run.
fn is_of_the_kernel(status: Status) -> bool {
    use nvrtcResult::{NVRTC_ERROR_COMPILATION, NVRTC_ERROR_INVALID_INPUT, NVRTC_ERROR_INVALID_OPTION};
    [NVRTC_ERROR_COMPILATION, NVRTC_ERROR_INVALID_INPUT, NVRTC_ERROR_INVALID_OPTION]
        .into_iter()
        .any(|of_kernel| of_kernel as Status == status)
}

/// Whether the log tells of memory that was not to be had, which the parts of the compiler call an error of compilation.
fn lacks_memory(log: &str) -> bool {
    let log = log.to_ascii_lowercase();
    ["out of memory", "memory allocation failure", "bad_alloc"].iter().any(|words| log.contains(words))
}

/// What the library of this path has beside it: `libnvrtc-builtins.so.13.0`, and `libnvrtc-builtins.alt.so.13.0` of an
/// alternative one.
fn builtins(library: &Path, ending: &str) -> PathBuf {
    let library = library.canonicalize().unwrap_or_else(|_| library.to_path_buf());
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    let kind = name.strip_prefix("libnvrtc.").and_then(|rest| rest.split_once("so")).map_or("", |(kind, _)| kind);
    library.with_file_name(format!("libnvrtc-builtins.{kind}{ending}"))
}

fn load(path: &Path) -> Result<Library> {
    // SAFETY: what runs when it is loaded is NVIDIA's, from a path that the user or a trusted folder names.
    unsafe { Library::new(path) }.map_err(|error| unusable(&error))
}

/// # Safety
/// `T` must be the type of the function of that name.
unsafe fn symbol<'l, T>(library: &'l Library, name: &str) -> Result<Symbol<'l, T>> {
    // SAFETY: by this function's contract.
    unsafe { library.get(name.as_bytes()) }.map_err(|error| unusable(&error))
}

/// Why it is none, in the loader's own words.
fn unusable(error: &libloading::Error) -> Error {
    let said = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    Error::failure(format!("it is no NVRTC that can be used ({said}); set SWEEP_NVRTC to another"))
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(Error::failure)
}

fn text(log: &[u8]) -> String {
    CStr::from_bytes_until_nul(log).map_or_else(|_| String::new(), |log| log.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_without_memory_is_told_from_a_kernel_with_an_error() {
        assert!(lacks_memory("row_softmax.cu(3): catastrophic error: out of memory\n"));
        assert!(lacks_memory("ptxas fatal   : Memory allocation failure"));
        assert!(!lacks_memory("row_softmax.cu(3): error: identifier \"memory\" is undefined"));
        assert!(!is_of_the_kernel(nvrtcResult::NVRTC_ERROR_OUT_OF_MEMORY as Status));
        assert!(!is_of_the_kernel(nvrtcResult::NVRTC_ERROR_INTERNAL_ERROR as Status));
        assert!(is_of_the_kernel(nvrtcResult::NVRTC_ERROR_COMPILATION as Status));
    }

    #[test]
    fn builtins_lie_beside_their_library() {
        let of = |library: &str| builtins(Path::new(library), "so.13.0");
        assert_eq!(of("/nowhere/libnvrtc.so.13"), Path::new("/nowhere/libnvrtc-builtins.so.13.0"));
        assert_eq!(of("/nowhere/libnvrtc.so.13.0.88"), Path::new("/nowhere/libnvrtc-builtins.so.13.0"));
        assert_eq!(of("/nowhere/libnvrtc.alt.so.13"), Path::new("/nowhere/libnvrtc-builtins.alt.so.13.0"));
    }
}
