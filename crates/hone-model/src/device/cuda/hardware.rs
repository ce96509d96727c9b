//! The GPU itself, by `cudarc`: driver, run-time compiler and cuBLASLt are looked for when the device is opened, so that the program
//! runs where they are not. One stream; memory is taken when the device reserves it and given back when it goes.

use super::driver::{Address, Argument, Driver, Launch, Operand, Pattern, Product};
use super::plans::Plans;
use super::{compiler, profile};
use anyhow::{Context, Result, ensure};
use cudarc::cublaslt::{result as blas, sys as blas_sys};
use cudarc::driver::{result as cuda, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::thread::ThreadId;

/// Bytes that cuBLASLt may use for itself.
pub(super) const PRODUCT_WORKSPACE_BYTES: usize = 32 << 20;
/// Bytes of host memory through which copies to the GPU go.
const STAGING_BYTES: usize = 32 << 20;
/// Kernels whose dynamic shared memory is beyond what is granted unasked ask for so much.
const SHARED_UNASKED: u32 = 48 << 10;
/// Oldest GPUs with tensor cores for bf16: compute capability 8.0.
const OLDEST: (i32, i32) = (8, 0);

/// A GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As its maker calls it.
    pub name: String,
    /// Bytes of memory, and those free.
    pub memory: (u64, u64),
    /// Compute capability.
    pub capability: (i32, i32),
}

impl Gpu {
    /// The first GPU.
    ///
    /// # Errors
    /// No driver, no GPU, a GPU in a state that refuses work.
    pub fn first() -> Result<Gpu> {
        let hardware = FirstGpu::open()?;
        let free = cuda::mem_get_info().context("ask the GPU for its memory")?;
        Ok(Gpu {
            name: cuda::device::get_name(hardware.device).context("ask the GPU for its name")?,
            memory: (free.1 as u64, free.0 as u64),
            capability: hardware.capability,
        })
    }
}

/// Whether the driver of NVIDIA GPUs is installed.
#[must_use]
pub fn has_driver() -> bool {
    #[expect(unsafe_code, reason = "a library is looked for by loading it")]
    // SAFETY: the driver's library may be loaded at any time.
    unsafe {
        sys::is_culib_present()
    }
}

/// What this machine lacks for the device `cuda`, each with what to do; nothing where it can be used.
#[must_use]
pub fn missing() -> Vec<String> {
    #[expect(unsafe_code, reason = "libraries are looked for by loading them")]
    // SAFETY: the libraries of NVIDIA may be loaded at any time.
    let (compiler, products) = unsafe { (cudarc::nvrtc::sys::is_culib_present(), blas_sys::is_culib_present()) };
    let mut missing = Vec::new();
    if !has_driver() {
        missing.push("NVIDIA driver (libcuda.so.1): install the driver of the distribution and restart".to_owned());
    } else if let Err(error) = FirstGpu::open() {
        missing.push(format!("a usable GPU: {error:#}; see `nvidia-smi`"));
    }
    let hint = "install the CUDA runtime libraries (`pip install nvidia-cuda-nvrtc nvidia-cublas`, or the distribution's CUDA \
                packages) and name their folder in LD_LIBRARY_PATH";
    if !compiler {
        missing.push(format!("NVRTC (libnvrtc.so), which compiles the kernels: {hint}"));
    }
    if !products {
        missing.push(format!("cuBLASLt (libcublasLt.so), which computes products: {hint}"));
    }
    missing
}

/// The first GPU, and its primary context.
struct FirstGpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    capability: (i32, i32),
}

impl FirstGpu {
    fn open() -> Result<FirstGpu> {
        #[expect(unsafe_code, reason = "the driver's functions")]
        // SAFETY: the library may be loaded at any time; the context is released once, by `drop`.
        unsafe {
            ensure!(has_driver(), "there is no NVIDIA driver (libcuda.so.1)");
            cuda::init().context("start the NVIDIA driver")?;
            ensure!(cuda::device::get_count().context("count GPUs")? > 0, "the NVIDIA driver finds no GPU");
            let device = cuda::device::get(0).context("open the first GPU")?;
            let attribute = |what| cuda::device::get_attribute(device, what).context("ask the GPU for its capability");
            let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let context = cuda::primary_ctx::retain(device).context("make a context on the GPU")?;
            let opened = FirstGpu { device, context, capability: (major, minor) };
            cuda::ctx::set_current(context).context("use the GPU's context")?;
            Ok(opened)
        }
    }
}

impl Drop for FirstGpu {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the driver's functions")]
        // SAFETY: it was retained once.
        let _ = unsafe { cuda::primary_ctx::release(self.device) };
    }
}

/// The driver on a GPU.
pub(super) struct Hardware {
    stream: sys::CUstream,
    module: sys::CUmodule,
    functions: HashMap<String, sys::CUfunction>,
    products: blas_sys::cublasLtHandle_t,
    product_workspace: Address,
    plans: Plans,
    /// Host memory that the GPU can read by itself.
    staging: *mut u8,
    staged: usize,
    memory: Vec<Address>,
    /// What is being timed, when kernels are.
    timed: Vec<(String, [sys::CUevent; 2])>,
    /// The thread that has the context.
    thread: Option<ThreadId>,
    // Last: the context goes after all that lives in it.
    context: FirstGpu,
}

// SAFETY: the handles are of a context that is made current on whichever thread calls.
#[expect(unsafe_code, reason = "handles of the driver are pointers")]
unsafe impl Send for Hardware {}

impl Hardware {
    pub(super) fn open() -> Result<Hardware> {
        let missing = missing();
        ensure!(missing.is_empty(), "this machine lacks for the device `cuda`: {}", missing.join("; "));
        let context = FirstGpu::open()?;
        ensure!(
            context.capability >= OLDEST,
            "the GPU has compute capability {:?}, {OLDEST:?} is needed",
            context.capability
        );
        let image = compiler::compiled(context.capability)?;
        #[expect(unsafe_code, reason = "the driver's functions")]
        // SAFETY: the context is current; handles are freed by `drop`.
        unsafe {
            let module = cuda::module::load_data(image.as_ptr().cast()).context("load the kernels onto the GPU")?;
            let stream = cuda::stream::create(cuda::stream::StreamKind::NonBlocking).context("make a stream")?;
            let products = blas::create_handle().context("start cuBLASLt")?;
            let staging = cuda::malloc_host(STAGING_BYTES, 0).context("reserve host memory for copies")?.cast();
            let mut hardware = Hardware {
                stream,
                module,
                functions: HashMap::new(),
                products,
                product_workspace: 0,
                plans: Plans::default(),
                staging,
                staged: 0,
                memory: Vec::new(),
                timed: Vec::new(),
                thread: None,
                context,
            };
            hardware.product_workspace = hardware.allocate(PRODUCT_WORKSPACE_BYTES)?;
            Ok(hardware)
        }
    }

    /// Makes the context current on this thread.
    fn enter(&mut self) -> Result<()> {
        let thread = std::thread::current().id();
        if self.thread != Some(thread) {
            #[expect(unsafe_code, reason = "the driver's functions")]
            // SAFETY: the context lives as long as `self`.
            unsafe { cuda::ctx::set_current(self.context.context) }.context("use the GPU's context")?;
            self.thread = Some(thread);
        }
        Ok(())
    }

    /// Does something on the stream; with [`time_kernels`], notes how long it takes there.
    fn timed(&mut self, name: &str, work: impl FnOnce(&mut Hardware) -> Result<()>) -> Result<()> {
        if !profile::is_on() {
            return work(self);
        }
        let event = || cuda::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).context("make an event");
        let events = [event()?, event()?];
        self.record(events[0])?;
        work(self)?;
        self.record(events[1])?;
        self.timed.push((name.to_owned(), events));
        Ok(())
    }

    fn record(&self, event: sys::CUevent) -> Result<()> {
        #[expect(unsafe_code, reason = "the driver's functions")]
        // SAFETY: the event and the stream are of this context.
        unsafe { cuda::event::record(event, self.stream) }.context("record an event")
    }

    /// After all is done: what was timed goes to the profile.
    fn collect_times(&mut self) -> Result<()> {
        for (name, [begin, end]) in self.timed.drain(..) {
            #[expect(unsafe_code, reason = "the driver's functions")]
            // SAFETY: both were recorded and have happened; each is destroyed once.
            unsafe {
                profile::add(name, cuda::event::elapsed(begin, end).context("read the time of a kernel")?);
                cuda::event::destroy(begin).context("give back an event")?;
                cuda::event::destroy(end).context("give back an event")?;
            }
        }
        Ok(())
    }

    fn function(&mut self, launch: &Launch<'_>) -> Result<sys::CUfunction> {
        if let Some(function) = self.functions.get(launch.kernel) {
            return Ok(*function);
        }
        let name = CString::new(launch.kernel).context("name a kernel")?;
        #[expect(unsafe_code, reason = "the driver's functions")]
        // SAFETY: the module is loaded.
        let function = unsafe { cuda::module::get_function(self.module, name) }.context("find the kernel")?;
        if launch.shared > SHARED_UNASKED {
            let what = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            #[expect(unsafe_code, reason = "the driver's functions")]
            // SAFETY: the function is of this context.
            unsafe { cuda::function::set_function_attribute(function, what, launch.shared as c_int) }
                .with_context(|| format!("get {} bytes of shared memory", launch.shared))?;
        }
        self.functions.insert(launch.kernel.to_owned(), function);
        Ok(function)
    }
}

#[expect(unsafe_code, reason = "the driver's functions")]
impl Driver for Hardware {
    fn free_memory(&self) -> Option<u64> {
        // SAFETY: the context lives as long as `self`.
        unsafe { cuda::ctx::set_current(self.context.context) }.ok()?;
        cuda::mem_get_info().ok().map(|(free, _)| free as u64)
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        self.enter()?;
        if bytes == 0 {
            return Ok(0);
        }
        // SAFETY: the context is current; the memory is freed once, by `drop`.
        unsafe {
            let (free, total) = cuda::mem_get_info().context("ask the GPU for its memory")?;
            let full = |error: String| std::io::Error::new(std::io::ErrorKind::OutOfMemory, error);
            if bytes > free {
                return Err(full(format!("{bytes} bytes are needed, {free} of the GPU's {total} are free")).into());
            }
            let address =
                cuda::malloc_sync(bytes).map_err(|error| full(format!("the GPU gives no {bytes} bytes: {error}")))?;
            self.memory.push(address);
            cuda::memset_d8_async(address, 0, bytes, self.stream).context("clear memory of the GPU")?;
            Ok(address)
        }
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        let mut to = to;
        for part in bytes.chunks(STAGING_BYTES / 2) {
            // SAFETY: the part lies in the staging memory, behind what earlier copies still read; once that is full, all are done.
            unsafe {
                if self.staged + part.len() > STAGING_BYTES {
                    cuda::stream::synchronize(self.stream).context("wait for copies to the GPU")?;
                    self.staged = 0;
                }
                let place = std::slice::from_raw_parts_mut(self.staging.add(self.staged), part.len());
                place.copy_from_slice(part);
                cuda::memcpy_htod_async(to, place, self.stream).context("copy to the GPU")?;
            }
            self.staged = (self.staged + part.len()).next_multiple_of(256);
            to += part.len() as Address;
        }
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the bytes are there until the copy is done, which is waited for.
        unsafe {
            cuda::memcpy_dtoh_async(bytes, from, self.stream).context("copy from the GPU")?;
            cuda::stream::synchronize(self.stream).context("wait for the GPU")
        }
    }

    fn fill(&mut self, to: Address, pattern: Pattern, count: usize) -> Result<()> {
        self.enter()?;
        if count == 0 {
            return Ok(());
        }
        // SAFETY: the range is inside memory that was allocated.
        unsafe {
            match pattern {
                Pattern::Half(bits) => sys::cuMemsetD16Async(to, bits, count, self.stream).result(),
                Pattern::Word(bits) => sys::cuMemsetD32Async(to, bits, count, self.stream).result(),
            }
        }
        .context("fill memory of the GPU")
    }

    fn copy(&mut self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        self.timed("copy", |this| {
            // SAFETY: both ranges are inside memory that was allocated.
            unsafe { cuda::memcpy_dtod_async(to, from, bytes, this.stream) }.context("copy on the GPU")
        })
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        self.enter()?;
        let function = self.function(launch)?;
        let mut pointers: Vec<*mut c_void> = launch.arguments.iter().map(Argument::pointer).collect();
        let [x, y, z] = launch.grid;
        let (grid, block) = ((x, y, z), (launch.threads, 1, 1));
        self.timed(launch.kernel, |this| {
            // SAFETY: the arguments are those that the kernel declares, which the tests hold.
            unsafe { cuda::launch_kernel(function, grid, block, launch.shared, this.stream, &mut pointers) }
                .with_context(|| format!("start {grid:?} blocks of {} threads", launch.threads))
        })
    }

    fn product(&mut self, product: &Product) -> Result<()> {
        self.enter()?;
        let name = format!("product {} x {} x {}", product.m, product.n, product.k);
        self.timed(&name, |this| this.multiply(product))
    }

    fn finish(&mut self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { cuda::stream::synchronize(self.stream) }.context("wait for the GPU")?;
        self.collect_times()
    }
}

impl Hardware {
    fn multiply(&mut self, product: &Product) -> Result<()> {
        let (handle, stream, workspace) = (self.products, self.stream, self.product_workspace);
        let plan = self.plans.of(handle, product)?;
        let (alpha, beta) = (1.0f32, if product.accumulate { 1.0f32 } else { 0.0 });
        let pointer = |operand: Operand| operand.address as *mut c_void;
        let [first, second, result] = plan.layouts;
        #[expect(unsafe_code, reason = "cuBLASLt's functions")]
        // SAFETY: the plan is of these operands, which are inside memory that was allocated.
        unsafe {
            blas::matmul(
                handle,
                plan.description,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                pointer(product.b),
                first,
                pointer(product.a),
                second,
                pointer(product.c),
                result,
                pointer(product.c),
                result,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                PRODUCT_WORKSPACE_BYTES,
                stream.cast(),
            )
        }
        .with_context(|| format!("start a product of {} x {} x {}", product.m, product.n, product.k))
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        // What cannot be given back here goes with the process.
        let _ = self.finish();
        self.plans.clear();
        #[expect(unsafe_code, reason = "the driver's functions")]
        // SAFETY: each was made once, and nothing uses them any more.
        unsafe {
            for address in self.memory.drain(..) {
                let _ = cuda::free_sync(address);
            }
            let _ = cuda::free_host(self.staging.cast());
            let _ = blas::destroy_handle(self.products);
            let _ = cuda::stream::destroy(self.stream);
            let _ = cuda::module::unload(self.module);
        }
    }
}
