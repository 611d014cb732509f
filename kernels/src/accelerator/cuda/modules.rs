//! Kernels on one GPU: a source's cubin is loaded when the first of its kernels is launched.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::accelerator::cubins::Cubins;
use crate::accelerator::{Argument, Kernel};
use crate::failure::DeviceError;

/// Dynamic shared memory that needs no leave.
const FREE_SHARED_BYTES: u32 = 48 << 10;

#[derive(Debug)]
pub(super) struct Modules {
    cubins: Cubins,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    /// By the source's name.
    modules: HashMap<&'static str, sys::CUmodule>,
    /// By the kernel's name.
    functions: HashMap<&'static str, Function>,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    handle: sys::CUfunction,
    /// What it may use of dynamic shared memory so far.
    shared_bytes: u32,
}

/// Who says no: the compiler, or the driver.
pub(super) enum Refusal {
    Device(DeviceError),
    Driver(DriverError),
}

impl From<DriverError> for Refusal {
    fn from(error: DriverError) -> Refusal {
        Refusal::Driver(error)
    }
}

impl From<DeviceError> for Refusal {
    fn from(error: DeviceError) -> Refusal {
        Refusal::Device(error)
    }
}

impl Modules {
    pub(super) fn new(cubins: Cubins) -> Modules {
        Modules { cubins, loaded: Mutex::default() }
    }

    /// The kernel, ready for a launch with as much dynamic shared memory and these arguments.
    pub(super) fn function(
        &self,
        kernel: &'static Kernel,
        shared_bytes: u32,
        arguments: &[Argument],
    ) -> Result<sys::CUfunction, Refusal> {
        let mut loaded = self.lock();
        let mut function = match loaded.functions.get(kernel.name) {
            Some(&function) => function,
            None => self.load(&mut loaded, kernel, arguments)?,
        };
        if shared_bytes > function.shared_bytes {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a loaded module.
            unsafe { result::function::set_function_attribute(function.handle, attribute, shared_bytes as i32) }?;
            function.shared_bytes = shared_bytes;
        }
        loaded.functions.insert(kernel.name, function);
        Ok(function.handle)
    }

    fn load(&self, loaded: &mut Loaded, kernel: &'static Kernel, arguments: &[Argument]) -> Result<Function, Refusal> {
        let module = match loaded.modules.get(kernel.source.name) {
            Some(&module) => module,
            None => {
                let cubin = self.cubins.of(kernel.source)?;
                // SAFETY: a whole cubin, checked by its hash or just compiled.
                unsafe { result::module::load_data(cubin.as_ptr().cast()) }?
            }
        };
        loaded.modules.insert(kernel.source.name, module);
        let name = std::ffi::CString::new(kernel.name).expect("names are words");
        // SAFETY: the module is loaded.
        let handle = unsafe { result::module::get_function(module, name) }?;
        check_parameters(kernel, handle, arguments);
        Ok(Function { handle, shared_bytes: FREE_SHARED_BYTES })
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().expect("nothing panics inside")
    }

    /// # Safety
    /// No kernel is running or launched any more; the context is current.
    pub(super) unsafe fn unload(&self) {
        let mut loaded = self.lock();
        loaded.functions.clear();
        for (_, module) in loaded.modules.drain() {
            // SAFETY: loaded by us; nothing of it is in use.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// Panics where number or sizes of the arguments are not those of the kernel's parameters: our mistake, and one that would
/// read whatever lies beside. Drivers before 12.4 cannot be asked; there the emulator has asked in the tests.
fn check_parameters(kernel: &Kernel, handle: sys::CUfunction, arguments: &[Argument]) {
    // SAFETY: the symbol is looked for, not called.
    if unsafe { sys::culib().get::<*const ()>(b"cuFuncGetParamInfo") }.is_err() {
        return;
    }
    let size = |index: usize| {
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: a function of a loaded module; writes two integers.
        let told = unsafe { sys::cuFuncGetParamInfo(handle, index, &raw mut offset, &raw mut bytes) };
        told.result().ok().map(|()| bytes)
    };
    let parameters: Vec<usize> = (0..).map_while(size).collect();
    let given: Vec<usize> = arguments.iter().map(|argument| argument.bytes() as usize).collect();
    assert_eq!(given, parameters, "`{}`: bytes of its arguments are not those of its parameters", kernel.name);
}
