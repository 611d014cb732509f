//! Servers that are not ours, driven through a recipe as users drive them. They take minutes to install and seconds to answer:
//! `tests/run --full` only. Their models are tiny: what the random one says is never of use and has to be dealt with, the other one
//! has learnt to say `True`.

#[path = "support/kitchen.rs"]
mod kitchen;
#[path = "foreign/llama_cpp.rs"]
mod llama_cpp;
#[path = "foreign/serving.rs"]
mod serving;
#[path = "foreign/transformers.rs"]
mod transformers;
#[path = "foreign/vllm.rs"]
mod vllm;

fn is_full() -> bool {
    let is_full = std::env::var_os("DECOCT_TESTS_FULL").is_some();
    if !is_full {
        eprintln!("skipped: DECOCT_TESTS_FULL is not set");
    }
    is_full
}

#[test]
fn transformers_serve_is_driven_through_a_recipe() {
    if is_full() {
        transformers::is_driven_through_a_recipe();
    }
}

#[test]
fn the_server_of_llama_cpp_is_driven_through_a_recipe() {
    if is_full() {
        llama_cpp::is_driven_through_a_recipe();
    }
}

#[test]
fn vllm_is_driven_through_a_recipe_and_says_what_we_say_of_a_model_of_ours() {
    if is_full() {
        vllm::is_driven_through_a_recipe();
        vllm::says_what_we_say_of_a_model_of_ours();
    }
}
