//! Every `.cu` file of this room: what `kernels.lock` is about.

use super::Source;

/// In the order of names; one line a file.
pub(crate) static SOURCES: &[&Source] = &[
    &crate::adamw::cuda::SOURCE,
    &crate::attention::cuda::SOURCE,
    &crate::attention::half_cuda::BACKWARD_SOURCE,
    &crate::attention::half_cuda::FORWARD_SOURCE,
    &crate::attention::hopper_cuda::FORWARD_SOURCE,
    &crate::attention::paged_cuda::SOURCE,
    &crate::bias::cuda::SOURCE,
    &crate::columns::cuda::SOURCE,
    &crate::dpo::cuda::SOURCE,
    &crate::elementwise::cuda::SOURCE,
    &crate::gae::cuda::SOURCE,
    &crate::head_norm::cuda::SOURCE,
    &crate::logprob::cuda::SOURCE,
    &crate::matmul::tiles::SOURCE,
    &crate::norm::cuda::SOURCE,
    &crate::ppo::cuda::SOURCE,
    &crate::reduce::cuda::SOURCE,
    &crate::rope::cuda::SOURCE,
    &crate::rows::cuda::SOURCE,
    &crate::sample::cuda::SOURCE,
    &crate::swiglu::cuda::SOURCE,
];
