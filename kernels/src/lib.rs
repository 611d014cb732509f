//! Numbers only: devices, opaque buffers, and one folder per operation.
