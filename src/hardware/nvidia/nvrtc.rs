//! NVRTC, CUDA's run-time compiler, loaded from a file. Compiling needs no GPU and no driver.

use super::driver::Version;
use super::loader_words;
use libloading::Library;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::fmt;

type Program = *mut c_void;
type Code = c_int;

/// Declares the functions that are loaded from NVRTC: field, symbol and type.
macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) -> $result:ty;)*) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// # Safety
            /// The library must be NVRTC.
            unsafe fn load(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of nvrtc.h; the caller guarantees that the library is NVRTC.
                unsafe { Ok(Functions { $($field: *library.get($symbol)?,)* }) }
            }
        }
    };
}

functions! {
    version = c"nvrtcVersion": fn(*mut c_int, *mut c_int) -> Code;
    error_text = c"nvrtcGetErrorString": fn(Code) -> *const c_char;
    architecture_count = c"nvrtcGetNumSupportedArchs": fn(*mut c_int) -> Code;
    architectures = c"nvrtcGetSupportedArchs": fn(*mut c_int) -> Code;
    create = c"nvrtcCreateProgram":
        fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> Code;
    compile = c"nvrtcCompileProgram": fn(Program, c_int, *const *const c_char) -> Code;
    log_size = c"nvrtcGetProgramLogSize": fn(Program, *mut usize) -> Code;
    log = c"nvrtcGetProgramLog": fn(Program, *mut c_char) -> Code;
    code_size = c"nvrtcGetCUBINSize": fn(Program, *mut usize) -> Code;
    code = c"nvrtcGetCUBIN": fn(Program, *mut c_char) -> Code;
    destroy = c"nvrtcDestroyProgram": fn(*mut Program) -> Code;
}

/// A loaded copy of NVRTC. Several threads may compile with it at the same time.
pub struct Nvrtc {
    /// The file's path, or the name that the loader searched for.
    file: String,
    version: Version,
    /// Compute capabilities that it compiles for: 89 is 8.9.
    architectures: Vec<u32>,
    functions: Functions,
    // Keeps the functions loaded.
    _library: Library,
}

impl fmt::Display for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        write!(f, "{major}.{minor} ({})", self.file)
    }
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nvrtc {self}")
    }
}

/// Options of every compilation, besides the architecture.
pub const OPTIONS: [&str; 1] = ["--std=c++17"];

impl Nvrtc {
    /// Loads a copy of NVRTC from a path, or by a bare name that the loader searches for.
    ///
    /// # Errors
    /// Returns an error if the file cannot be loaded, lacks a function, or its version functions fail.
    pub fn open(file: &OsStr) -> Result<Self, String> {
        // SAFETY: the file is named as NVRTC is named and comes from a folder where NVRTC is installed; its initialisers
        // may run at any time, and the types of its functions are those of nvrtc.h.
        let (library, functions) = unsafe {
            let library = Library::new(file).map_err(|e| loader_words(&e))?;
            let functions = Functions::load(&library).map_err(|e| loader_words(&e))?;
            (library, functions)
        };
        let mut nvrtc = Nvrtc {
            file: file.to_string_lossy().into_owned(),
            version: (0, 0),
            architectures: Vec::new(),
            functions,
            _library: library,
        };
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the pointers are valid during the calls, and the list is as long as NVRTC said.
        let architectures = unsafe {
            nvrtc.check((nvrtc.functions.version)(&raw mut major, &raw mut minor))?;
            nvrtc.check((nvrtc.functions.architecture_count)(&raw mut count))?;
            let mut architectures = vec![0; usize::try_from(count).unwrap_or(0)];
            if !architectures.is_empty() {
                nvrtc.check((nvrtc.functions.architectures)(architectures.as_mut_ptr()))?;
            }
            architectures
        };
        nvrtc.version = (major as u32, minor as u32);
        nvrtc.architectures = architectures.into_iter().map(|a: c_int| a as u32).collect();
        Ok(nvrtc)
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it compiles for GPUs of this compute capability; 89 is 8.9.
    pub fn supports(&self, architecture: u32) -> bool {
        self.architectures.contains(&architecture)
    }

    /// Compiles CUDA C++ to machine code (a CUBIN) for GPUs of a compute capability; 89 is 8.9.
    ///
    /// # Errors
    /// Returns the compiler's log if the source does not compile.
    pub fn compile(&self, source: &str, architecture: u32) -> Result<Vec<u8>, String> {
        let options = OPTIONS.map(ToOwned::to_owned);
        self.compile_with(source, architecture, &options, |program| {
            let f = &self.functions;
            // SAFETY: the program is alive, and the functions are about its code.
            unsafe { self.buffer(program, f.code_size, f.code) }
        })
    }

    /// What ptxas reports of the kernels of a source: registers, spilled bytes, shared memory.
    ///
    /// # Errors
    /// Returns the compiler's log if the source does not compile.
    pub fn explain(&self, source: &str, architecture: u32) -> Result<String, String> {
        let options: Vec<String> = OPTIONS
            .iter()
            .copied()
            .chain(["--ptxas-options=-v"])
            .map(ToOwned::to_owned)
            .collect();
        self.compile_with(source, architecture, &options, |program| {
            // SAFETY: the program is alive.
            Ok(unsafe { self.log(program) })
        })
    }

    /// Compiles a source and returns what `output` takes from the compiled program.
    fn compile_with<T>(
        &self,
        source: &str,
        architecture: u32,
        options: &[String],
        output: impl FnOnce(Program) -> Result<T, String>,
    ) -> Result<T, String> {
        let source = CString::new(source).map_err(|e| e.to_string())?;
        let architecture = CString::new(format!("--gpu-architecture=sm_{architecture}"))
            .map_err(|e| e.to_string())?;
        let options: Vec<_> = options
            .iter()
            .map(|option| CString::new(option.as_str()))
            .collect();
        let mut pointers = vec![architecture.as_ptr()];
        for option in &options {
            pointers.push(option.as_ref().map_err(ToString::to_string)?.as_ptr());
        }
        let f = &self.functions;
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: every pointer is valid during its call, every buffer has the size that NVRTC asked for, and the
        // program is destroyed once, at the end.
        unsafe {
            self.check((f.create)(
                &raw mut program,
                source.as_ptr(),
                std::ptr::null(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            ))?;
            let compiled = self
                .check((f.compile)(
                    program,
                    pointers.len() as c_int,
                    pointers.as_ptr(),
                ))
                .map_err(|error| format!("{error}: {}", self.log(program)))
                .and_then(|()| output(program));
            // If this fails, a little memory is lost.
            (f.destroy)(&raw mut program);
            compiled
        }
    }

    /// The compiler's messages, or an empty text if it gives none.
    ///
    /// # Safety
    /// The program must be alive.
    unsafe fn log(&self, program: Program) -> String {
        // SAFETY: the caller guarantees that the program is alive.
        let log = unsafe { self.buffer(program, self.functions.log_size, self.functions.log) };
        let log = log.unwrap_or_default();
        String::from_utf8_lossy(&log)
            .trim_matches(['\0', '\n', ' '])
            .to_owned()
    }

    /// Asks NVRTC for the size of an output, then for its bytes.
    ///
    /// # Safety
    /// The program must be alive, and `size` and `fill` must be about the same output.
    unsafe fn buffer(
        &self,
        program: Program,
        size: unsafe extern "C" fn(Program, *mut usize) -> Code,
        fill: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the caller guarantees that the program is alive; the buffer has the size that NVRTC gave.
        unsafe {
            self.check(size(program, &raw mut bytes))?;
            let mut buffer = vec![0u8; bytes];
            self.check(fill(program, buffer.as_mut_ptr().cast()))?;
            Ok(buffer)
        }
    }

    fn check(&self, code: Code) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC returns a constant text for every code.
        let text = unsafe {
            let text = (self.functions.error_text)(code);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        Err(text.unwrap_or_else(|| format!("NVRTC error {code}")))
    }
}

/// Builds a fake NVRTC with the C compiler that links Rust programs.
#[cfg(test)]
pub(super) mod fake {
    use std::path::Path;
    use std::process::Command;

    /// Builds a fake NVRTC of version `major.minor` at `file` and creates the folders above it. tests/fake_cuda/nvrtc.c
    /// describes `flags`.
    pub fn build(file: &Path, (major, minor): (u32, u32), flags: &[&str]) {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_cuda/nvrtc.c");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-o"])
            .args([file, Path::new(source)])
            .args([format!("-DMAJOR={major}"), format!("-DMINOR={minor}")])
            .args(flags)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_its_version_and_compiles() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libnvrtc.so.12");
        fake::build(&file, (12, 4), &[]);
        let nvrtc = Nvrtc::open(file.as_os_str()).unwrap();
        assert_eq!(nvrtc.version(), (12, 4));
        assert_eq!(nvrtc.to_string(), format!("12.4 ({})", file.display()));
        assert!(nvrtc.supports(80) && nvrtc.supports(90) && !nvrtc.supports(100));
        assert_eq!(
            nvrtc.compile("int x;", 90).unwrap(),
            b"--gpu-architecture=sm_90int x;"
        );
        let log = nvrtc.compile("an error", 90).unwrap_err();
        assert_eq!(log, "NVRTC_ERROR_COMPILATION: line 1: no such thing");
        assert!(nvrtc.compile("a\0b", 90).is_err());
    }

    #[test]
    fn what_is_not_nvrtc_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text.so"), "no library").unwrap();
        fake::build(&path("less.so"), (12, 4), &["-DWITHOUT_LOG"]);
        for (file, part) in [
            ("absent.so", "absent.so"),
            ("text.so", "text.so"),
            ("less.so", "nvrtcGetProgramLog"),
        ] {
            let why = Nvrtc::open(path(file).as_os_str()).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
