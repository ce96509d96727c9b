//! A driver for tests: the kernels' own text, compiled for the processor, and plain loops for products. See `emulator.cpp`.

use super::driver::{Address, Argument, Driver, Launch, Operand, Pattern, Product};
use super::{Cuda, Precision, kernels};
use crate::device::NumberFormat;
use anyhow::{Context, Result, ensure};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

type Emulate = unsafe extern "C" fn(*const c_char, *const c_uint, c_uint, c_uint, *mut *mut c_void, c_uint) -> c_int;

/// The compiled kernels. One launch at a time: their shared memory is one for all.
static EMULATOR: LazyLock<Mutex<libloading::Library>> = LazyLock::new(|| Mutex::new(build().unwrap()));

/// Bytes before and after each piece of memory that nobody may change.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;

/// Memory of the processor behind the calls, and the names of the kernels that ran.
#[derive(Default)]
pub(super) struct Emulated {
    memory: Vec<Vec<u128>>,
    launches: c_uint,
    calls: Option<Box<dyn FnMut(String) + Send>>,
}

impl Cuda {
    /// The device, without a GPU.
    pub(in crate::device) fn emulated(precision: Precision) -> Cuda {
        Cuda::with_driver(Box::new(Emulated::default()), precision)
    }
}

/// Compiles the kernels with the processor's C++ compiler, which the build needs anyway.
fn build() -> Result<libloading::Library> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let table: String = kernels::names().iter().map(|name| format!("KERNEL({name})\n")).collect();
    for (name, text) in
        [("emulator.cpp", include_str!("emulator.cpp")), ("kernels.cu", kernels::SOURCE), ("table", &table)]
    {
        write(&folder.path().join(name), text)?;
    }
    let library = folder.path().join("emulator.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(&compiler);
    command.current_dir(folder.path()).args(["-O2", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off"]);
    command.args([
        "-fno-strict-aliasing",
        "-U_FORTIFY_SOURCE",
        "-DHONE_EMULATED",
        "-DKERNELS=\"kernels.cu\"",
        "-DTABLE=\"table\"",
    ]);
    command.args(["emulator.cpp", "-o", "emulator.so"]);
    let output = command.output().with_context(|| format!("run the C++ compiler `{compiler}`"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    #[expect(unsafe_code, reason = "the library was just built")]
    // SAFETY: it has no initialisers but those of its own tables.
    Ok(unsafe { libloading::Library::new(library) }?)
}

#[expect(clippy::disallowed_methods, reason = "files of a test, in a folder that goes away")]
fn write(path: &std::path::Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

impl Emulated {
    /// Tells `calls` of every call.
    pub(super) fn recorded(calls: impl FnMut(String) + Send + 'static) -> Emulated {
        Emulated { calls: Some(Box::new(calls)), ..Emulated::default() }
    }

    fn say(&mut self, call: impl FnOnce() -> String) {
        if let Some(calls) = &mut self.calls {
            calls(call());
        }
    }

    /// Bytes of memory that was allocated; panics beyond it.
    #[expect(unsafe_code, reason = "addresses are those of memory that was allocated")]
    fn bytes(&mut self, address: Address, len: usize) -> &mut [u8] {
        for piece in &mut self.memory {
            let start = piece.as_ptr() as u64 + GUARD as u64;
            let size = piece.len() * 16 - 2 * GUARD;
            if (start..=start + size as u64).contains(&address) && address + len as u64 <= start + size as u64 {
                // SAFETY: just checked.
                return unsafe { std::slice::from_raw_parts_mut(address as *mut u8, len) };
            }
        }
        panic!("{len} bytes at {address:#x} were never allocated")
    }

    /// Nothing wrote beyond the memory.
    fn check_guards(&self, kernel: &str) {
        for piece in &self.memory {
            let words = GUARD / 16;
            let guards = piece[..words].iter().chain(&piece[piece.len() - words..]);
            let expected = u128::from_ne_bytes([GUARD_BYTE; 16]);
            assert!(guards.copied().all(|word| word == expected), "`{kernel}` wrote beyond its memory");
        }
    }

    fn read(&mut self, operand: Operand, row: usize, col: usize) -> f32 {
        let index = if operand.by_columns { col * operand.stride + row } else { row * operand.stride + col };
        let size = operand.format.size();
        let bytes = self.bytes(operand.address + (index * size) as Address, size);
        match operand.format {
            NumberFormat::F32 => f32::from_ne_bytes(bytes.try_into().unwrap()),
            NumberFormat::Bf16 => half::bf16::from_ne_bytes(bytes.try_into().unwrap()).to_f32(),
        }
    }
}

impl Driver for Emulated {
    fn free_memory(&self) -> Option<u64> {
        Some(1 << 30)
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        self.say(|| format!("allocate {bytes}"));
        let (words, guard) = (bytes.div_ceil(16), GUARD / 16);
        let mut piece = vec![0u128; words + 2 * guard];
        let len = piece.len();
        let guard_word = u128::from_ne_bytes([GUARD_BYTE; 16]);
        piece[..guard].fill(guard_word);
        piece[len - guard..].fill(guard_word);
        let address = piece.as_ptr() as u64 + GUARD as u64;
        self.memory.push(piece);
        Ok(address)
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.say(|| format!("upload {} bytes", bytes.len()));
        self.bytes(to, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.say(|| format!("download {} bytes", bytes.len()));
        bytes.copy_from_slice(self.bytes(from, bytes.len()));
        Ok(())
    }

    fn fill(&mut self, to: Address, pattern: Pattern, count: usize) -> Result<()> {
        self.say(|| format!("fill {count}"));
        match pattern {
            Pattern::Half(bits) => {
                self.bytes(to, count * 2)
                    .chunks_exact_mut(2)
                    .for_each(|place| place.copy_from_slice(&bits.to_ne_bytes()));
            }
            Pattern::Word(bits) => {
                self.bytes(to, count * 4)
                    .chunks_exact_mut(4)
                    .for_each(|place| place.copy_from_slice(&bits.to_ne_bytes()));
            }
        }
        Ok(())
    }

    fn copy(&mut self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.say(|| format!("copy {bytes} bytes"));
        let from = self.bytes(from, bytes).to_vec();
        self.bytes(to, bytes).copy_from_slice(&from);
        Ok(())
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        self.say(|| format!("{} {:?} x {}", launch.kernel, launch.grid, launch.threads));
        let name = CString::new(launch.kernel)?;
        let mut pointers: Vec<*mut c_void> = launch.arguments.iter().map(Argument::pointer).collect();
        self.launches += 1;
        let library = EMULATOR.lock().unwrap();
        #[expect(unsafe_code, reason = "the emulator's function")]
        // SAFETY: the arguments are those that the kernel declares.
        let code = unsafe {
            let emulate: libloading::Symbol<'_, Emulate> = library.get(b"emulate")?;
            let (grid, arguments) = (launch.grid.as_ptr(), pointers.as_mut_ptr());
            emulate(name.as_ptr(), grid, launch.threads, launch.shared, arguments, self.launches)
        };
        drop(library);
        ensure!(code == 0, "code {code}: 1 means no such kernel, 2 sizes that no GPU takes: {launch:?}");
        self.check_guards(launch.kernel);
        Ok(())
    }

    fn product(&mut self, product: &Product) -> Result<()> {
        let Product { m, n, k, a, b, c, accumulate } = *product;
        self.say(|| format!("product {m} x {n} x {k}, {:?} to {:?}", a.format, c.format));
        assert!(a.format == b.format && !c.by_columns, "what cuBLASLt computes");
        let a: Vec<f32> = (0..m * k).map(|i| self.read(a, i / k, i % k)).collect();
        let b: Vec<f32> = (0..k * n).map(|i| self.read(b, i / n, i % n)).collect();
        for row in 0..m {
            for col in 0..n {
                let mut sum = if accumulate { self.read(c, row, col) } else { 0.0 };
                for i in 0..k {
                    sum += a[row * k + i] * b[i * n + col];
                }
                let size = c.format.size();
                let place = self.bytes(c.address + ((row * c.stride + col) * size) as Address, size);
                match c.format {
                    NumberFormat::F32 => place.copy_from_slice(&sum.to_ne_bytes()),
                    NumberFormat::Bf16 => place.copy_from_slice(&half::bf16::from_f32(sum).to_ne_bytes()),
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.say(|| "finish".to_owned());
        Ok(())
    }
}
