//! What tests of the whole house share.
#![allow(dead_code)] // each test binary uses its part

pub mod batch_server;
pub mod model_answers;
pub mod model_faults;
pub mod model_limits;
pub mod model_server;
