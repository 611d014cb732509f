//! Measures what the embedded default can learn: three kinds of chains, SFT and PPO, on problems nobody trained on.
//!
//! `cargo run --release -p stages --example tablets_lab -- [answer|simple|complex …] [name=value …]`

use kernels::Device;
use stages::draw::Draw;
use stages::failure::Result;
use stages::model::chat::{ChatTemplate, PLAIN};
use stages::model::generate::{Finish, Request, Sampling, generate};
use stages::model::tokenizer::{END_OF_TEXT, Training};
use stages::model::{Decoder, DecoderConfig, Tokenizer};
use stages::tablets::{Leaf, Problem, text};
use stages::train::batches::{Example, Keep};
use stages::train::evaluate::{FINAL_RESPONSE, THINKING, final_response, target, wilson};
use stages::train::grpo::GrpoSettings;
use stages::train::optimizer::AdamW;
use stages::train::policy::{Over, Ratio};
use stages::train::ppo::{Critic, PpoSettings};
use stages::train::practice::{Divergence, KlAs, PracticeSettings, Task, Truncated};
use stages::train::rloo::RlooSettings;
use stages::train::rollouts::{Answer, Judgement};
use stages::train::schedule::{Schedule, Shape};
use stages::train::sft::{BatchSize, Duration, SftSettings};
use stages::train::{Host, Metrics, grpo, ppo, rloo, sft};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Instant;

struct Lab {
    options: HashMap<String, f64>,
    device: Device,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    learnt: Vec<Problem>,
    practised: Vec<Problem>,
    held_out: Vec<Problem>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = arguments
        .iter()
        .filter_map(|it| it.split_once('='))
        .map(|(name, value)| (name.to_string(), value.parse().unwrap_or_else(|_| panic!("`{value}` is no number"))));
    let lab = Lab::new(options.collect())?;
    let kinds: Vec<&String> = arguments.iter().filter(|it| !it.contains('=')).collect();
    for kind in kinds {
        lab.measure(kind)?;
    }
    Ok(())
}

impl Lab {
    fn new(options: HashMap<String, f64>) -> Result<Lab> {
        let option = |name: &str, default: f64| options.get(name).copied().unwrap_or(default);
        let draw = Draw::new(option("seed", 0.0) as u64, "lab");
        let mut seen = HashSet::new();
        let mut fresh = |count: usize, name: &str| {
            let all = (0..).map(|index| Problem::draw(&draw.of(name).at(index)));
            all.filter(|problem| seen.insert(*problem)).take(count).collect::<Vec<_>>()
        };
        let held_out = fresh(option("held_out", 400.0) as usize, "held out");
        let learnt = fresh(option("chains", 6000.0) as usize, "learnt");
        let practised = fresh(option("prompts", 6000.0) as usize, "practised");
        let corpus: Vec<String> = ["answer", "simple", "complex"]
            .iter()
            .flat_map(|kind| {
                learnt.iter().take(1000).map(|problem| text::open_question(problem) + "\n" + &taught(problem, kind))
            })
            .collect();
        let headings = [THINKING, &format!("\n\n{FINAL_RESPONSE}")];
        let size = option("vocabulary", 400.0) as usize;
        let tokenizer = Tokenizer::train(Training::Words, size, corpus.iter().map(String::as_str), &headings)?;
        let threads = options.get("threads").map(|&threads| threads as usize);
        let device = Device::cpu(threads);
        let template = ChatTemplate::new(PLAIN, "", END_OF_TEXT);
        Ok(Lab { options, device, tokenizer, template, learnt, practised, held_out })
    }

    fn option(&self, name: &str, default: f64) -> f64 {
        self.options.get(name).copied().unwrap_or(default)
    }

    fn measure(&self, kind: &str) -> Result<()> {
        let student = self.student(kind)?;
        self.evaluate("sft", kind, &student)?;
        if self.option("ppo", 1.0) > 0.0 {
            let graduate = self.reinforce(kind, student)?;
            self.evaluate("ppo", kind, &graduate)?;
        }
        Ok(())
    }

    /// The student whose weights lie in the file that `LAB_STUDENT` names, or a new one, kept there.
    fn student(&self, kind: &str) -> Result<Decoder> {
        let Ok(path) = std::env::var("LAB_STUDENT") else { return self.supervise(kind) };
        if let Ok(bytes) = std::fs::read(&path) {
            let weights: Vec<f32> =
                bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect();
            return Ok(Decoder::new(&self.device, &self.config(), &weights));
        }
        let student = self.supervise(kind)?;
        let bytes: Vec<u8> = student.weights().iter().flat_map(|weight| weight.to_le_bytes()).collect();
        std::fs::write(&path, bytes).expect("the student can be written");
        Ok(student)
    }

    fn supervise(&self, kind: &str) -> Result<Decoder> {
        let end = self.end();
        let examples: Result<Vec<Example>> = self
            .learnt
            .iter()
            .map(|problem| {
                let target = [self.tokenizer.encode(&taught(problem, kind))?, vec![end]].concat();
                Ok(Example::new(&self.prompt(problem)?, &target))
            })
            .collect();
        let examples = examples?;
        let decoder = Decoder::fresh(&self.device, &self.config(), self.option("seed", 0.0) as u64);
        let settings = SftSettings {
            duration: Duration::Tokens(self.option("tokens", 2e6) as u64),
            batch: BatchSize::Tokens(self.option("batch", 384.0) as usize),
            schedule: Schedule {
                shape: Shape::CoolDown { share: self.option("cool", 0.5) },
                peak: self.option("lr", 3e-3),
                warmup: 0.02,
                floor: 0.05,
            },
            optimizer: AdamW { decay: self.option("decay", 0.1) as f32, ..AdamW::default() },
            length_max: 512,
            keep: Keep::Tail,
            micro_batch_tokens: None,
            checkpointing: false,
            evaluation: None,
        };
        let tokens: usize = examples.iter().map(|example| example.tokens.len()).sum();
        let targets: usize = examples.iter().map(Example::targets).sum();
        println!(
            "{kind}: vocabulary {}, {} parameters, {:.1} tokens an example, {:.1} of them learnt",
            self.tokenizer.vocab_size(),
            decoder.layout().len,
            tokens as f64 / examples.len() as f64,
            targets as f64 / examples.len() as f64
        );
        let draw = Draw::new(self.option("seed", 0.0) as u64, "sft");
        let clock = Instant::now();
        let (decoder, rows) = sft::train(
            decoder,
            &examples,
            &settings,
            &draw,
            &mut Talk::new("sft", &["loss", "learning_rate", "grad_norm"], 10),
        )?;
        let seconds = clock.elapsed().as_secs_f64();
        let read = rows.last().map_or(0.0, |row| row.get("tokens"));
        println!("{kind} sft: {} steps, {seconds:.1} s, {:.0} tokens/s", rows.len(), read / seconds);
        Ok(decoder)
    }

    fn reinforce(&self, kind: &str, policy: Decoder) -> Result<Decoder> {
        let prompts: Result<Vec<Vec<u32>>> = self.practised.iter().map(|problem| self.prompt(problem)).collect();
        let draw = Draw::new(self.option("seed", 0.0) as u64, "ppo");
        let mut judge = |answers: &[Answer]| {
            answers.iter().map(|answer| self.judge(&self.practised[answer.problem], answer.tokens)).collect()
        };
        let clock = Instant::now();
        let names = [
            "reward",
            "accuracy",
            "length",
            "kl",
            "entropy",
            "approx_kl",
            "clip_fraction",
            "value_loss",
            "explained_variance",
            "first_ratio",
            "sampler_gap",
        ];
        let (task, host) =
            (Task { policy, prompts: &prompts?, ids: &[], draw: &draw }, &mut Talk::new("rl", &names, 12));
        let (policy, rows) = match self.option("algorithm", 0.0) as u64 {
            0 => ppo::train(task, &self.ppo(), &mut judge, host)?,
            1 => {
                let practice = PracticeSettings { epochs: self.option("epochs", 1.0) as u64, ..self.practice(8.0) };
                let settings = GrpoSettings { practice, deviation: true, over: Over::Answers };
                grpo::train(task, &settings, &mut judge, host)?
            }
            _ => {
                let practice = PracticeSettings { epochs: self.option("epochs", 1.0) as u64, ..self.practice(4.0) };
                let settings = RlooSettings { practice, ratio: Ratio::Answer, whiten: false };
                rloo::train(task, &settings, &mut judge, host)?
            }
        };
        let explained: Vec<f64> = rows.iter().map(|row| row.get("explained_variance")).collect();
        let thirds =
            explained.chunks(rows.len().div_ceil(3)).map(|third| third.iter().sum::<f64>() / third.len() as f64);
        println!("{kind} explained variance by thirds: {:?}", thirds.collect::<Vec<_>>());
        println!("{kind} rl: {} iterations, {:.1} s", rows.len(), clock.elapsed().as_secs_f64());
        Ok(policy)
    }

    fn practice(&self, group: f64) -> PracticeSettings {
        PracticeSettings {
            iterations: self.option("iterations", 60.0) as u64,
            rollouts: self.option("rollouts", 256.0) as usize,
            group: self.option("group", group) as usize,
            temperature: 1.0,
            answer_tokens_max: self.option("answer", 200.0) as usize,
            minibatch: self.option("minibatch", 64.0) as usize,
            epochs: self.option("epochs", 2.0) as u64,
            idle: 0,
            schedule: Schedule { shape: Shape::Linear, peak: self.option("rl_lr", 3e-4), warmup: 0.05, floor: 0.1 },
            optimizer: AdamW { epsilon: 1e-6, decay: 0.0, ..AdamW::default() },
            clip: (0.2, 0.2),
            kl: Divergence {
                beta: self.option("kl", 0.03) as f32,
                place: if self.option("kl_loss", 0.0) > 0.0 { KlAs::Loss } else { KlAs::Reward },
                adaptive: None,
            },
            kl_stop: None,
            kl_limit: None,
            entropy: self.option("bonus", 0.0) as f32,
            truncated: Truncated { reward: Some(0.0), masked: false },
            checkpointing: false,
        }
    }

    fn ppo(&self) -> PpoSettings {
        let idle = self.option("value_warmup", 2.0) as u64;
        let practice = PracticeSettings { idle, ..self.practice(1.0) };
        let separate = Critic::Separate {
            rate: self.option("value_lr", 1e-3),
            optimizer: practice.optimizer,
            epochs: self.option("value_epochs", 2.0) as u64,
            minibatch: self.option("value_minibatch", self.option("minibatch", 64.0)) as usize,
        };
        let shared = self.options.get("shared").map(|&weight| Critic::Shared { coefficient: weight as f32 });
        PpoSettings {
            practice,
            critic: shared.unwrap_or(separate),
            discount: 1.0,
            trace: self.option("lambda", 1.0) as f32,
            value_trace: self.options.get("value_lambda").map(|&lambda| lambda as f32),
            value_clip: self.options.get("value_clip").map(|&clip| clip as f32),
            whiten: true,
        }
    }

    fn evaluate(&self, arm: &str, kind: &str, decoder: &Decoder) -> Result<()> {
        for temperature in [0.0, 1.0] {
            let prompts: Result<Vec<Vec<u32>>> = self.held_out.iter().map(|problem| self.prompt(problem)).collect();
            let prompts = prompts?;
            let draw = Draw::new(17, "evaluate");
            let requests: Vec<Request> = prompts
                .iter()
                .enumerate()
                .map(|(index, prompt)| Request { prompt, seed: draw.at(index as u64).bits() })
                .collect();
            let sampling =
                Sampling { temperature, tokens_max: self.option("answer", 200.0) as usize, ..Sampling::default() };
            let clock = Instant::now();
            let generations = generate(decoder, &requests, &sampling)?;
            let seconds = clock.elapsed().as_secs_f64();
            let tokens: usize = generations.iter().map(|it| it.tokens.len()).sum();
            let judged: Result<Vec<Judgement>> =
                self.held_out.iter().zip(&generations).map(|(problem, it)| self.judge(problem, &it.tokens)).collect();
            let right = judged?.iter().filter(|judgement| judgement.right).count();
            let stopped = generations.iter().filter(|it| it.finish == Finish::Stop).count();
            let share = wilson(right, self.held_out.len());
            println!(
                "{kind} {arm} T={temperature}: {:.1} % ({:.1}–{:.1}), ended {stopped}, {:.1} tokens, {:.0} tokens/s",
                100.0 * share.share,
                100.0 * share.low,
                100.0 * share.high,
                tokens as f64 / generations.len() as f64,
                tokens as f64 / seconds
            );
        }
        Ok(())
    }

    fn judge(&self, problem: &Problem, answer: &[u32]) -> Result<Judgement> {
        let text = self.tokenizer.decode(answer, false)?;
        let response = final_response(&text);
        let right = response.and_then(text::read_counts).is_some_and(|counts| problem.is_solved_by(&counts));
        let reward = if right {
            1.0
        } else if response.is_some() {
            0.1
        } else {
            0.0
        };
        Ok(Judgement { reward, right, formatted: response.is_some() })
    }

    fn prompt(&self, problem: &Problem) -> Result<Vec<u32>> {
        self.tokenizer.encode(&self.template.prompt(&text::open_question(problem))?)
    }

    fn end(&self) -> u32 {
        self.tokenizer.id(END_OF_TEXT).expect("a trained tokenizer ends texts")
    }

    fn config(&self) -> DecoderConfig {
        let size = |name: &str, default: usize| self.option(name, default as f64) as usize;
        DecoderConfig {
            vocab_size: self.tokenizer.vocab_size(),
            hidden_size: size("d", 96),
            num_hidden_layers: size("layers", 3),
            num_attention_heads: size("heads", 4),
            num_key_value_heads: size("kv", 2),
            intermediate_size: size("ffn", 256),
            rms_norm_eps: 1e-6,
            rope_theta: 1e4,
            tie_word_embeddings: true,
            max_position_embeddings: 512,
            bos_token_id: None,
            eos_token_ids: vec![self.end()],
            ..DecoderConfig::default()
        }
    }
}

/// What the student is to write.
fn taught(problem: &Problem, kind: &str) -> String {
    let leaves = problem.leaves();
    let solution = leaves.iter().position(Leaf::solves).expect("a posable problem has a solution");
    let shown = match kind {
        "answer" => &leaves[..0],
        "simple" => &leaves[solution..=solution],
        "complex" => &leaves[..=solution],
        other => panic!("`{other}` is no kind of chain; known are answer, simple and complex"),
    };
    let mut lines = Vec::new();
    for (index, leaf) in shown.iter().enumerate() {
        let [a, b, c] = problem.strengths_mg;
        let ([x, y, z], [after_a, after_b, after_c]) = (leaf.counts, leaf.left_mg);
        if index > 0 {
            lines.push("Hmm, wait".to_string());
        }
        if index == 0 || shown[index - 1].counts[0] != x {
            lines.push(format!("{a}*{x} {after_a}"));
        }
        lines.push(format!("{b}*{y} {after_b}"));
        lines.push(format!("{c}*{z} {after_c}"));
    }
    target(&lines.join("\n"), &text::answer(&leaves[solution].counts))
}

/// Prints some of the rows.
struct Talk {
    what: &'static str,
    names: Vec<&'static str>,
    lines: u64,
}

impl Talk {
    fn new(what: &'static str, names: &[&'static str], lines: u64) -> Talk {
        Talk { what, names: names.to_vec(), lines }
    }
}

impl Host for Talk {
    fn checkpoint_folder(&self) -> Option<&Path> {
        None
    }

    fn checkpoint_every(&self) -> u64 {
        u64::MAX
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn report(&mut self, metrics: &Metrics, total: u64) {
        if metrics.step.is_multiple_of((total / self.lines).max(1)) || metrics.step < 3 {
            let values: Vec<String> =
                self.names.iter().map(|name| format!("{name} {:.4}", metrics.get(name))).collect();
            println!("  {} {}/{total}: {}", self.what, metrics.step, values.join(", "));
        }
    }
}
