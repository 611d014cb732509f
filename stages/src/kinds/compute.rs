//! The setting `compute`: in which precision the products of a training take their factors.

use crate::context::Context;
use kernels::{Device, Precision, Profile};

crate::choice! {
    /// What products take of their factors.
    pub enum Compute { "f32" => F32, "bf16" => Bf16 }
}

impl Compute {
    pub fn is_f32(&self) -> bool {
        *self == Compute::F32
    }

    /// The context's device, with products of this precision.
    pub fn device(self, context: &dyn Context) -> Device {
        context.device().in_precision(self.precision())
    }

    /// The same of a device that a plan is made for.
    pub fn profile(self, on: Profile) -> Profile {
        on.in_precision(self.precision())
    }

    fn precision(self) -> Precision {
        match self {
            Compute::F32 => Precision::F32,
            Compute::Bf16 => Precision::Bf16,
        }
    }
}
