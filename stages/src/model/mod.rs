//! The decoder model: shape, named parameters, forward and backward pass, generation, tokenizer and the Hugging Face folder.

pub mod batch;
pub mod carried;
pub mod chat;
pub mod complete;
pub mod config;
pub mod decoder;
pub mod folder;
pub mod generate;
pub mod heads;
pub mod lora;
pub mod losses;
pub mod parameters;
mod prepared;
pub mod tensors;
pub mod tokenizer;
pub mod workspace;
pub mod writing;

pub use carried::Carried;
pub use chat::ChatTemplate;
pub use config::DecoderConfig;
pub use decoder::{Decoder, Learnt};
pub use folder::ModelFolder;
pub use lora::Lora;
pub use tokenizer::Tokenizer;
