//! `export_models FOLDER`: small random models of every family as we write them, some with adapters as we keep them, each with what we
//! read off it (`ours.json`), for `tests/reference/check_exports.py` to compare with what transformers and PEFT read.

use kernels::{Device, logits, philox};
use serde_json::{Value, json};
use stages::failure::Result;
use stages::model::batch::Batch;
use stages::model::chat::{Message, PLAIN};
use stages::model::lora::{PeftAdapter, Target};
use stages::model::parameters::{Layout, initial};
use stages::model::tensors::Precision;
use stages::model::tokenizer::{END_OF_TEXT, Training};
use stages::model::workspace::{Purpose, Workspace};
use stages::model::{Carried, ChatTemplate, Decoder, DecoderConfig, Lora, ModelFolder, Tokenizer};
use stages::train::batches::Example;
use std::path::Path;

const TEXTS: [&str; 3] = [
    "Dose 455 mg, tablets 90 70 60 mg, max 4?\n",
    "It's 2 o'clock, we'll WAIT – naïve 漢字 3½ \t tabs\r\n\r\n   and   spaces  \n",
    "<|im_start|>user\n90*3 185<|im_end|>\nHmm, wait 90*2 275<|endoftext|>",
];

/// Every optional part of every family at least once.
fn models() -> Vec<(&'static str, Value)> {
    let llama3 = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16});
    vec![
        ("qwen2", json!({"model_type": "qwen2", "tie_word_embeddings": true})),
        ("qwen2-untied", json!({"model_type": "qwen2", "num_key_value_heads": 1})),
        ("qwen3", json!({"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": true})),
        ("qwen3-biased", json!({"model_type": "qwen3", "head_dim": 6, "attention_bias": true})),
        ("llama", json!({"model_type": "llama", "rope_scaling": llama3})),
        (
            "llama-biased",
            json!({"model_type": "llama", "attention_bias": true, "tie_word_embeddings": true,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ),
    ]
}

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).expect("usage: export_models FOLDER");
    for (name, settings) in models() {
        let folder = Path::new(&folder);
        export(&folder.join(name), &settings, None)?;
        let lora = Lora { rank: 3, alpha: 6.0, targets: Target::ALL.to_vec() };
        export(&folder.join(format!("{name}-adapted")), &settings, Some(&lora))?;
    }
    Ok(())
}

/// With `lora` the folder `adapter` holds adapters beside the model, and what we read off it is theirs too.
fn export(folder: &Path, settings: &Value, lora: Option<&Lora>) -> Result<()> {
    let tokenizer = Tokenizer::train(Training::Words, 330, TEXTS.into_iter(), &[])?;
    let mut file = json!({"vocab_size": tokenizer.vocab_size(), "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 40, "max_position_embeddings": 256,
        "rope_theta": 1e3, "eos_token_id": tokenizer.id(END_OF_TEXT)});
    let fields = settings.as_object().expect("a mapping").clone();
    file.as_object_mut().expect("a mapping").extend(fields);
    let config = DecoderConfig::from_json(&file.to_string(), "a model of this example")?;
    let mut weights = initial(&config, &Layout::new(&config, false), 11);
    // Norms away from 1 and biases from 0, so that no part can be left out unnoticed.
    shift(&mut weights);
    let mut decoder = Decoder::new(&Device::cpu(Some(1)), &config, &weights);
    if let Some(lora) = lora {
        decoder = with_adapters(decoder, lora);
        PeftAdapter::of(&decoder, lora).save(&folder.join("adapter"))?;
    }
    let template = ChatTemplate::new(PLAIN, "", END_OF_TEXT);
    let seen: Vec<Value> = TEXTS.into_iter().map(|text| seen(&decoder, &tokenizer, text)).collect::<Result<_>>()?;
    let prompt = template.render(&[Message::user(TEXTS[0]), Message::user(TEXTS[1])], true)?;
    ModelFolder { config, weights, tokenizer, template: Some(template), carried: Carried::default() }
        .save(folder, Precision::F32)?;
    let ours = json!({"texts": seen, "messages": [Message::user(TEXTS[0]), Message::user(TEXTS[1])], "prompt": prompt});
    std::fs::write(folder.join("ours.json"), ours.to_string()).expect("the folder can be written");
    Ok(())
}

fn shift(weights: &mut [f32]) {
    for (place, weight) in (0..).zip(weights) {
        *weight += 0.2 * (philox::uniform(7, place) as f32 - 0.5);
    }
}

/// Adapters that change something.
fn with_adapters(decoder: Decoder, lora: &Lora) -> Decoder {
    let mut adapted = decoder.adapted(lora, 5);
    let mut weights = adapted.learnt_weights();
    shift(&mut weights);
    let stream = adapted.device().stream();
    stream.write(adapted.learnt_mut().view_mut(), &weights);
    adapted
}

/// A text's ids, and the logits of every row but the last.
fn seen(decoder: &Decoder, tokenizer: &Tokenizer, text: &str) -> Result<Value> {
    let (ids, config) = (tokenizer.encode(text)?, decoder.config());
    let mut workspace = Workspace::new(decoder.device().stream(), Purpose::Inference);
    let batch = Batch::of_examples(&workspace.stream, [Example::new(&ids[..1], &ids[1..])].iter());
    decoder.forward(&batch, &mut workspace);
    let (t, v, stream) = (batch.len(), config.vocab_size, &workspace.stream);
    let mut scores = stream.uninit(t * v);
    let head = decoder.weight(&decoder.layout().head);
    logits::forward(stream, t, v, config.hidden_size, workspace.normed(&batch), head, scores.view_mut());
    Ok(json!({"text": text, "ids": ids, "logits": stream.download(scores.view())}))
}
