//! Numbers only: devices, opaque buffers, and one folder per operation.

pub mod device;

pub use device::Device;
