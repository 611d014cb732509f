//! Memory of one GPU, from the driver's pool: in the order of a stream, and freed memory stays for the next allocation. A GPU
//! without pools (some virtual ones) is asked each time.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUmemPool_attribute as Attribute};

#[derive(Debug)]
pub(super) struct Memory {
    pool: Option<sys::CUmemoryPool>,
}

impl Memory {
    pub(super) fn new(device: sys::CUdevice, has_pools: bool) -> Result<Memory, DriverError> {
        if !has_pools {
            return Ok(Memory { pool: None });
        }
        let mut threshold = u64::MAX;
        // SAFETY: the device has a pool, and this attribute is 64 bits wide.
        unsafe {
            let pool = result::device::get_default_mem_pool(device)?;
            let attribute = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())?;
            Ok(Memory { pool: Some(pool) })
        }
    }

    /// Memory of unspecified content, at least one byte. The context is current.
    pub(super) fn allocate(&self, bytes: usize, stream: sys::CUstream) -> Result<sys::CUdeviceptr, DriverError> {
        // SAFETY: the stream is the only one that uses the memory.
        match self.pool {
            Some(_) => unsafe { result::malloc_async(stream, bytes) },
            None => unsafe { result::malloc_sync(bytes) },
        }
    }

    /// # Safety
    /// `allocate` gave this address with this stream, and it is freed once.
    pub(super) unsafe fn free(&self, address: sys::CUdeviceptr, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: as above; without a pool nothing may be under way that uses the memory.
        match self.pool {
            Some(_) => unsafe { result::free_async(address, stream) },
            None => unsafe { result::stream::synchronize(stream).and_then(|()| result::free_sync(address)) },
        }
    }

    /// (bytes that can still be allocated, bytes that there are): what the driver has free, and what lies idle in the pool.
    pub(super) fn free_and_total(&self) -> Result<(u64, u64), DriverError> {
        let (free, total) = result::mem_get_info()?;
        Ok((free as u64 + self.idle()?, total as u64))
    }

    fn idle(&self) -> Result<u64, DriverError> {
        let Some(pool) = self.pool else { return Ok(0) };
        let told = |attribute: Attribute| {
            let mut bytes = 0u64;
            // SAFETY: the pool lives as long as the device, and these attributes are 64 bits wide.
            unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }.map(|()| bytes)
        };
        let reserved = told(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        Ok(reserved.saturating_sub(told(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
    }
}
