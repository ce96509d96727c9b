//! Compiles the kernels for a GPU at run time, and keeps what was compiled.

use super::kernels;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::ffi::{CString, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static KERNEL_FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Compiled kernels are kept in this folder from now on. Without it, they are compiled each time a device is opened.
pub fn keep_kernels_in(folder: &Path) {
    // A second call changes nothing: the folder is one for the process.
    let _ = KERNEL_FOLDER.set(folder.to_owned());
}

/// The kernels for a GPU, from the folder of compiled ones or compiled now.
pub(super) fn compiled((major, minor): (i32, i32)) -> Result<Vec<u8>> {
    let architecture = format!("sm_{major}{minor}");
    let Some(folder) = KERNEL_FOLDER.get() else { return compile(&architecture) };
    let mut hash = Sha256::new();
    for part in [kernels::SOURCE, &architecture, &format!("{:?}", compiler_version()?)] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let name: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join(format!("{name}.cubin"));
    if let Ok(image) = std::fs::read(&path) {
        return Ok(image);
    }
    let image = compile(&architecture)?;
    // Only saves time: where it cannot be kept, the kernels are compiled again next time.
    let _ = keep(&path, &image);
    Ok(image)
}

/// Writes beside the place and renames, so that another process finds all of it or nothing.
#[expect(clippy::disallowed_methods, reason = "a cache that may be lost, in a crate that knows nothing of workspaces")]
fn keep(path: &Path, image: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().expect("a file in the folder");
    std::fs::create_dir_all(folder)?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&beside, image)?;
    std::fs::rename(beside, path)
}

/// Version of the run-time compiler.
fn compiler_version() -> Result<(c_int, c_int)> {
    let (mut major, mut minor) = (0, 0);
    #[expect(unsafe_code, reason = "the compiler's functions")]
    // SAFETY: two numbers are written.
    let result = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    result.result().context("ask NVRTC for its version")?;
    Ok((major, minor))
}

/// Compiles the kernels for `sm_80`, …: machine code that the driver loads.
///
/// # Errors
/// No compiler, or what it says of the kernels.
pub(super) fn compile(architecture: &str) -> Result<Vec<u8>> {
    use cudarc::nvrtc::{result as compiler, sys as compiler_sys};
    #[expect(unsafe_code, reason = "the compiler's functions")]
    // SAFETY: the program is made and destroyed once; sizes are asked for before bytes are read.
    unsafe {
        ensure!(compiler_sys::is_culib_present(), "there is no NVRTC (libnvrtc.so)");
        let source = CString::new(kernels::SOURCE).context("read the kernels")?;
        let name = CString::new("hone.cu").context("name the kernels")?;
        let program = compiler::create_program(&source, Some(&name)).context("hand the kernels to NVRTC")?;
        let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
        if let Err(error) = compiler::compile_program(program, &options) {
            let log = compiler::get_program_log(program).unwrap_or_default();
            let log: Vec<u8> = log.into_iter().map(|letter| letter as u8).filter(|letter| *letter != 0).collect();
            compiler::destroy_program(program)?;
            bail!("compile the kernels for {architecture}: {error:?}\n{}", String::from_utf8_lossy(&log));
        }
        let mut size = 0;
        compiler_sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut image = vec![0u8; size];
        compiler_sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
        compiler::destroy_program(program)?;
        Ok(image)
    }
}
