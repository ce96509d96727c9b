//! The GPU itself, by `cudarc`: driver, run-time compiler and cuBLASLt are looked for when the device is opened, so that the program
//! runs where they are not. One stream; memory is taken when the device reserves it and given back when it goes.

use super::driver::{Address, Argument, Driver, Launch, Operand, Pattern, Product};
use super::{kernels, profile};
use crate::device::NumberFormat;
use anyhow::{Context, Result, bail, ensure};
use cudarc::cublaslt::{result as blas, sys as blas_sys};
use cudarc::driver::{result as cuda, sys};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::ThreadId;

/// Bytes that cuBLASLt may use for itself.
pub(super) const PRODUCT_WORKSPACE_BYTES: usize = 32 << 20;
/// Bytes of host memory through which copies to the GPU go.
const STAGING_BYTES: usize = 32 << 20;
/// Shapes of products whose way of computing is remembered.
const MOST_PLANS: usize = 4096;
/// Kernels whose dynamic shared memory is beyond what is granted unasked ask for so much.
const SHARED_UNASKED: u32 = 48 << 10;
/// Oldest GPUs with tensor cores for bf16: compute capability 8.0.
const OLDEST: (i32, i32) = (8, 0);

static KERNEL_FOLDER: OnceLock<PathBuf> = OnceLock::new();

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
        let hardware = Context0::open()?;
        let free = cuda::mem_get_info().context("ask the GPU for its memory")?;
        Ok(Gpu {
            name: cuda::device::get_name(hardware.device).context("ask the GPU for its name")?,
            memory: (free.1 as u64, free.0 as u64),
            capability: hardware.capability,
        })
    }
}

/// What this machine lacks for the device `cuda`, each with what to do; nothing where it can be used.
#[must_use]
pub fn missing() -> Vec<String> {
    #[expect(unsafe_code, reason = "libraries are looked for by loading them")]
    // SAFETY: the libraries of NVIDIA may be loaded at any time.
    let (driver, compiler, products) = unsafe {
        (sys::is_culib_present(), cudarc::nvrtc::sys::is_culib_present(), blas_sys::is_culib_present())
    };
    let mut missing = Vec::new();
    if !driver {
        missing.push("NVIDIA driver (libcuda.so.1): install the driver of the distribution and restart".to_owned());
    } else if let Err(error) = Context0::open() {
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

/// Compiled kernels are kept in this folder from now on. Without it, they are compiled each time a device is opened.
pub fn keep_kernels_in(folder: &Path) {
    // A second call changes nothing: the folder is one for the process.
    let _ = KERNEL_FOLDER.set(folder.to_owned());
}

/// The first GPU's primary context.
struct Context0 {
    device: sys::CUdevice,
    context: sys::CUcontext,
    capability: (i32, i32),
}

impl Context0 {
    fn open() -> Result<Context0> {
        #[expect(unsafe_code, reason = "the driver's functions")]
        // SAFETY: the library may be loaded at any time; the context is released once, by `drop`.
        unsafe {
            ensure!(sys::is_culib_present(), "there is no NVIDIA driver (libcuda.so.1)");
            cuda::init().context("start the NVIDIA driver")?;
            ensure!(cuda::device::get_count().context("count GPUs")? > 0, "the NVIDIA driver finds no GPU");
            let device = cuda::device::get(0).context("open the first GPU")?;
            let attribute = |what| cuda::device::get_attribute(device, what).context("ask the GPU for its capability");
            let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let context = cuda::primary_ctx::retain(device).context("make a context on the GPU")?;
            let opened = Context0 { device, context, capability: (major, minor) };
            cuda::ctx::set_current(context).context("use the GPU's context")?;
            Ok(opened)
        }
    }
}

impl Drop for Context0 {
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
    plans: HashMap<Shape, Plan>,
    /// Host memory that the GPU can read by itself.
    staging: *mut u8,
    staged: usize,
    memory: Vec<Address>,
    /// What is being timed, when kernels are.
    timed: Vec<(String, [sys::CUevent; 2])>,
    /// The thread that has the context.
    thread: Option<ThreadId>,
    // Last: the context goes after all that lives in it.
    context: Context0,
}

// SAFETY: the handles are of a context that is made current on whichever thread calls.
#[expect(unsafe_code, reason = "handles of the driver are pointers")]
unsafe impl Send for Hardware {}

/// What decides how a product is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    sizes: [usize; 3],
    /// Format, stride, by columns, alignment of a, b and c.
    operands: [(NumberFormat, usize, bool, u32); 3],
    accumulate: bool,
}

/// How a product is computed.
struct Plan {
    description: blas_sys::cublasLtMatmulDesc_t,
    layouts: [blas_sys::cublasLtMatrixLayout_t; 3],
    algorithm: blas_sys::cublasLtMatmulAlgo_t,
}

impl Hardware {
    pub(super) fn open() -> Result<Hardware> {
        let missing = missing();
        ensure!(missing.is_empty(), "this machine lacks for the device `cuda`: {}", missing.join("; "));
        let context = Context0::open()?;
        ensure!(context.capability >= OLDEST, "the GPU has compute capability {:?}, {OLDEST:?} is needed", context.capability);
        let image = compiled(context.capability)?;
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
                plans: HashMap::new(),
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

    fn plan(&mut self, product: &Product) -> Result<&Plan> {
        let aligned = |operand: Operand| 1 << operand.address.trailing_zeros().min(8);
        let key = |o: Operand| (o.format, o.stride, o.by_columns, aligned(o));
        let shape = Shape {
            sizes: [product.m, product.n, product.k],
            operands: [key(product.a), key(product.b), key(product.c)],
            accumulate: product.accumulate,
        };
        if self.plans.len() >= MOST_PLANS {
            self.plans.clear();
        }
        if !self.plans.contains_key(&shape) {
            let plan = Plan::new(self.products, product, shape.operands.map(|operand| operand.3))
                .with_context(|| format!("plan a product of {} x {} x {}", product.m, product.n, product.k))?;
            self.plans.insert(shape, plan);
        }
        Ok(&self.plans[&shape])
    }
}

impl Plan {
    /// cuBLASLt counts by columns: it computes the transposes, cᵀ := bᵀ · aᵀ.
    fn new(handle: blas_sys::cublasLtHandle_t, product: &Product, alignments: [u32; 3]) -> Result<Plan> {
        use blas_sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        use blas_sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let Product { m, n, k, a, b, c, .. } = *product;
        let description = blas::create_matmul_desc(
            blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas_sys::cudaDataType::CUDA_R_32F,
        )?;
        let layout = |operand: Operand, rows: usize, cols: usize| {
            // By rows, `rows` x `cols` is `cols` x `rows` by columns.
            let (first, second) = if operand.by_columns { (rows, cols) } else { (cols, rows) };
            blas::create_matrix_layout(data_type(operand.format), first as u64, second as u64, operand.stride as i64)
        };
        let mut plan = Plan {
            description,
            layouts: [layout(b, k, n)?, layout(a, m, k)?, layout(c, m, n)?],
            algorithm: blas_sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        #[expect(unsafe_code, reason = "cuBLASLt's functions")]
        // SAFETY: handles are live; each attribute is given with its own type's size.
        unsafe {
            for (attribute, operand) in [(CUBLASLT_MATMUL_DESC_TRANSA, b), (CUBLASLT_MATMUL_DESC_TRANSB, a)] {
                // cublasOperation_t: 0 takes the matrix as it is, 1 its transpose.
                let operation = i32::from(operand.by_columns);
                let value = std::ptr::from_ref(&operation).cast();
                blas::set_matmul_desc_attribute(plan.description, attribute, value, size_of_val(&operation))?;
            }
            let preference = blas::create_matmul_pref()?;
            let set = |attribute, value: *const c_void, size| {
                blas::set_matmul_pref_attribute(preference, attribute, value, size)
            };
            let workspace = PRODUCT_WORKSPACE_BYTES;
            set(
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                std::ptr::from_ref(&workspace).cast(),
                size_of::<usize>(),
            )?;
            let [of_a, of_b, of_c] = alignments;
            for (attribute, alignment) in [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_b),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_a),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_c),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_c),
            ] {
                set(attribute, std::ptr::from_ref(&alignment).cast(), size_of::<u32>())?;
            }
            let [first, second, result] = plan.layouts;
            let found =
                blas::get_matmul_algo_heuristic(handle, description, first, second, result, result, preference);
            blas::destroy_matmul_pref(preference)?;
            plan.algorithm = found?.algo;
        }
        Ok(plan)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "cuBLASLt's functions")]
        // SAFETY: each was made once.
        unsafe {
            let _ = blas::destroy_matmul_desc(self.description);
            for layout in self.layouts {
                let _ = blas::destroy_matrix_layout(layout);
            }
        }
    }
}

fn data_type(format: NumberFormat) -> blas_sys::cudaDataType {
    match format {
        NumberFormat::F32 => blas_sys::cudaDataType::CUDA_R_32F,
        NumberFormat::Bf16 => blas_sys::cudaDataType::CUDA_R_16BF,
    }
}

#[expect(unsafe_code, reason = "the driver's functions")]
impl Driver for Hardware {
    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        self.enter()?;
        if bytes == 0 {
            return Ok(0);
        }
        // SAFETY: the context is current; the memory is freed once, by `drop`.
        unsafe {
            let (free, total) = cuda::mem_get_info().context("ask the GPU for its memory")?;
            ensure!(bytes <= free, "{bytes} bytes are needed, {free} of the GPU's {total} are free");
            let address = cuda::malloc_sync(bytes).context("take memory of the GPU")?;
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
        let plan = self.plan(product)?;
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

/// The kernels for a GPU, from the folder of compiled ones or compiled now.
fn compiled((major, minor): (i32, i32)) -> Result<Vec<u8>> {
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
