//! Every `.cu` file of this room: what `kernels.lock` is about.

use super::Source;

/// In the order of names; one line a file.
pub(crate) static SOURCES: &[&Source] = &[
    &crate::adamw::cuda::SOURCE,
    &crate::attention::cuda::SOURCE,
    &crate::attention::half_cuda::BACKWARD_SOURCE,
    &crate::attention::half_cuda::FORWARD_SOURCE,
    &crate::attention::hopper_cuda::BACKWARD_SOURCE,
    &crate::attention::hopper_cuda::FORWARD_SOURCE,
    &crate::attention::paged_cuda::SOURCE,
    &crate::bias::cuda::SOURCE,
    &crate::columns::cuda::SOURCE,
    &crate::dpo::cuda::SOURCE,
    &crate::elementwise::cuda::SOURCE,
    &crate::gae::cuda::SOURCE,
    &crate::head_norm::cuda::SOURCE,
    &crate::logprob::cuda::SOURCE,
    &crate::logprob::hopper::SOURCE,
    &crate::matmul::tiles::SOURCE,
    &crate::norm::cuda::SOURCE,
    &crate::ppo::cuda::SOURCE,
    &crate::reduce::cuda::SOURCE,
    &crate::rope::cuda::SOURCE,
    &crate::rows::cuda::SOURCE,
    &crate::sample::cuda::SOURCE,
    &crate::swiglu::cuda::SOURCE,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries =
            std::fs::read_dir(folder).expect("a room has sources").map(|entry| entry.expect("it is read").path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn every_file_of_kernels_is_registered() {
        let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let sources = files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "cu"));
        let mut written: Vec<_> = sources.filter_map(|file| file.file_stem()?.to_str()).collect();
        let mut registered: Vec<_> = SOURCES.iter().map(|source| source.name).collect();
        written.sort_unstable();
        registered.sort_unstable();
        assert_eq!(registered, written);
    }
}
