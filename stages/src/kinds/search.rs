//! `search`: goes on from every false conclusion by drawn strategies until a verifier agrees or patience ends.

use super::asking::{self, Asked, Asker, Fate, divide_by_asking, require_columns, with};
use super::examples::Examples;
use super::prompts::{COT, REVEAL, SEARCH, VERIFY, prompt_of};
use super::verify::Judge;
use crate::chain::Chain;
use crate::columns::{Columns, Need};
use crate::context::Context;
use crate::draw::Draw;
use crate::failure::Result;
use crate::llm::ReplyFormat;
use crate::llm::crowd::Item;
use crate::prompt::Prompt;
use crate::rows::ColumnType;
use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::{Input, Inputs, Kind, ModelName, NodeRef, Outlook, Output, Outputs, Stage, Unkeyed};
use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub const KIND: Kind = Kind {
    name: "search",
    about: "Searches on from false conclusions (adds `rounds`, `attempt`, `strategies`, `told`; changes `chain`, `conclusion`, `verdict`).",
    schema: SearchSettings::schema,
    read,
};

const ADDED: [(&str, ColumnType); 7] = [
    ("chain", ColumnType::Json),
    ("conclusion", ColumnType::Text),
    ("verdict", ColumnType::Bool),
    ("rounds", ColumnType::Int),
    ("attempt", ColumnType::Int),
    ("strategies", ColumnType::Json),
    ("told", ColumnType::Bool),
];

/// Columns that the input must have.
const NEEDED: [&str; 5] = ["problem", "truth", "chain", "conclusion", "verdict"];

crate::choice! {
    /// How a chain goes on from a conclusion that was found false.
    pub enum Strategy {
        /// An approach that differs from all before.
        "explore" => Explore,
        /// Back to an earlier step, and on from there.
        "backtrack" => Backtrack,
        /// A thorough check of the present reasoning.
        "verify" => Verify,
        /// A critique and repair of the present reasoning.
        "correct" => Correct,
    }
}

const STRATEGIES: [Strategy; 4] = [Strategy::Explore, Strategy::Backtrack, Strategy::Verify, Strategy::Correct];

crate::choice! {
    /// What a new attempt starts from.
    pub enum Restart {
        /// A new first chain.
        "fresh" => Fresh,
        /// The chain so far.
        "keep" => Keep,
    }
}

crate::settings! {
    /// How long and by which strategies a search goes on.
    pub struct SearchSettings {
        pub input: NodeRef,
        pub model: ModelName,
        /// Who judges conclusions; `model` itself when left out.
        pub verifier: Option<ModelName> = None,
        /// Rounds in one attempt.
        pub rounds: u32 = 3,
        /// Attempts at one problem.
        pub attempts: u32 = 3,
        /// Weights of `explore`, `backtrack`, `verify`, `correct`; equal when left out, 0 for one that is not named.
        /// There is nothing to backtrack to in the first round after a fresh start.
        pub strategies: IndexMap<String, f64> = IndexMap::new(),
        pub restart: Restart = Restart::Fresh,
        /// After the last attempt tell the model the answer and keep its chain, labelled `told`, unchecked.
        pub reveal: bool = false,
        /// Prompt files; those among the recipe's prompts when left out.
        pub prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// Shown before the question: a list of `{ user, assistant }`, or a JSONL file of them. They count as part of the prompt.
        #[serde(skip)]
        pub examples: Unkeyed<Option<Examples>> = Unkeyed(None),
        pub cot_prompt: Unkeyed<Option<String>> = Unkeyed(None),
        pub verify_prompt: Unkeyed<Option<String>> = Unkeyed(None),
        pub reveal_prompt: Unkeyed<Option<String>> = Unkeyed(None),
        /// How often a question is put before a row is marked.
        pub asks: u32 = 3,
    }
}

struct Search {
    settings: SearchSettings,
    search: Prompt,
    cot: Prompt,
    verify: Prompt,
    reveal: Prompt,
}

fn read(fields: &Map<String, Value>, reader: &mut Reader) -> Option<Box<dyn Stage>> {
    let settings = SearchSettings::read_fields(fields, reader);
    if let Some(settings) = &settings {
        check_weights(settings, reader);
    }
    let search = prompt_of(fields, "prompt", &SEARCH, reader);
    let cot = prompt_of(fields, "cot_prompt", &COT, reader);
    let verify = prompt_of(fields, "verify_prompt", &VERIFY, reader);
    let reveal = prompt_of(fields, "reveal_prompt", &REVEAL, reader);
    Some(Box::new(Search { settings: settings?, search: search?, cot: cot?, verify: verify?, reveal: reveal? }))
}

fn check_weights(settings: &SearchSettings, reader: &mut Reader) {
    let place = Step::Key("strategies".to_string());
    for (word, weight) in &settings.strategies {
        let step = if Strategy::from_word(word).is_none() { Step::Name(word.clone()) } else { Step::Key(word.clone()) };
        reader.within(place.clone(), |reader| {
            reader.within(step, |reader| {
                if Strategy::from_word(word).is_none() {
                    let hint = crate::settings::nearest_hint(word, Strategy::WORDS.iter().copied());
                    reader.mistake("unknown-key", format!("unknown strategy `{word}`"), hint);
                } else if !(weight.is_finite() && *weight >= 0.0) {
                    reader.mistake("out-of-range", format!("the weight `{weight}` is negative"), None);
                }
            })
        });
    }
    if !settings.strategies.is_empty() && settings.strategies.values().sum::<f64>() <= 0.0 {
        reader.within(place, |reader| reader.mistake("out-of-range", "all strategies have the weight 0", None));
    }
}

impl Stage for Search {
    fn version(&self) -> u32 {
        1
    }

    fn settings(&self) -> Value {
        let mut settings = json!(self.settings);
        settings["strategies"] = json!(self.settings.weights());
        settings
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input::rows("input", &self.settings.input)]
    }

    fn models(&self) -> Vec<(String, String)> {
        let verifier = self.settings.verifier.as_ref().unwrap_or(&self.settings.model);
        vec![("model".to_string(), self.settings.model.0.clone()), ("verifier".to_string(), verifier.0.clone())]
    }

    fn prompts(&self) -> Vec<(&'static str, Prompt)> {
        let mut prompts = vec![("search", self.search.clone()), ("verify", self.verify.clone())];
        if self.settings.restart == Restart::Fresh && self.settings.attempts > 1 {
            prompts.push(("cot", self.cot.clone()));
        }
        if self.settings.reveal {
            prompts.push(("reveal", self.reveal.clone()));
        }
        prompts
    }

    fn draws(&self) -> bool {
        true
    }

    fn outputs(&self) -> Vec<Output> {
        asking::outputs()
    }

    fn columns(&self, output: &str, inputs: &[Columns]) -> Columns {
        asking::columns(output, &inputs[0], &ADDED.map(|(name, _)| name))
    }

    fn needs(&self) -> Vec<Need> {
        asking::needs(&NEEDED)
    }

    fn calls(&self, rows: u64) -> Outlook {
        let (questions, likely) = self.settings.questions_a_row();
        let most = rows * questions * u64::from(self.settings.asks.max(1));
        Outlook::about(rows as f64 * likely, "half of all conclusions are found true", most)
    }

    fn run(&self, mut inputs: Inputs, context: &dyn Context) -> Result<Outputs> {
        let table = inputs.take_table("input");
        require_columns(&table, &NEEDED)?;
        let searcher = Arc::new(self.searcher(context)?);
        let concurrency = searcher.search.concurrency();
        divide_by_asking(context, "search", &table, &ADDED, concurrency, move |item| {
            let searcher = searcher.clone();
            async move { Ok(searcher.row(item).await?.unwrap_or_else(|marked| marked)) }
        })
    }
}

/// Weights by the names of their strategies.
pub fn in_words(settings: &Value) -> Value {
    let mut words = settings.clone();
    if let Some(weights) = settings["strategies"].as_array() {
        let named = STRATEGIES.iter().map(|strategy| strategy.word().to_string()).zip(weights.iter().cloned());
        words["strategies"] = Value::Object(named.collect());
    }
    words
}

impl SearchSettings {
    /// At most, and in the mean when each verdict, the one that the row brings included, is true by half.
    fn questions_a_row(&self) -> (u64, f64) {
        let (mut most, mut likely, mut still_false) = (0, 0.0, 0.5);
        let mut ask = |questions: u64, is_judged: bool| {
            most += questions;
            likely += questions as f64 * still_false;
            still_false *= if is_judged { 0.5 } else { 1.0 };
        };
        for attempt in 0..self.attempts.max(1) {
            if attempt > 0 && self.restart == Restart::Fresh {
                ask(2, true);
            }
            (0..self.rounds).for_each(|_| ask(2, true));
        }
        if self.reveal {
            ask(1, false);
        }
        (most, likely)
    }

    /// In the order of [`STRATEGIES`].
    fn weights(&self) -> [f64; 4] {
        match self.strategies.is_empty() {
            true => [1.0; 4],
            false => STRATEGIES.map(|strategy| self.strategies.get(strategy.word()).copied().unwrap_or(0.0)),
        }
    }
}

impl Search {
    fn searcher(&self, context: &dyn Context) -> Result<Searcher> {
        let (model, asks) = (context.caller("model")?, self.settings.asks);
        Ok(Searcher {
            search: Asker::new(model.clone(), &self.search, &SEARCH, "search", ReplyFormat::Json, asks),
            cot: Asker::new(model.clone(), &self.cot, &COT, "chain", ReplyFormat::Json, asks),
            reveal: Asker::new(model, &self.reveal, &REVEAL, "reveal", ReplyFormat::Json, asks),
            judge: Judge::new(context.caller("verifier")?, &self.verify, asks),
            settings: self.settings.clone(),
            draw: context.draw().of("strategy"),
        })
    }
}

struct Searcher {
    search: Arc<Asker>,
    cot: Arc<Asker>,
    reveal: Arc<Asker>,
    judge: Judge,
    settings: SearchSettings,
    draw: Draw,
}

/// Where one row stands.
struct State {
    id: String,
    row: Map<String, Value>,
    truth: String,
    chain: Chain,
    verdict: bool,
    /// Counted from 0, as samples are.
    attempt: u32,
    /// Strategies of this attempt, in order.
    strategies: Vec<Strategy>,
}

/// Unwraps an answer, or ends the row's search with the fate of a marked row.
macro_rules! parsed {
    ($answer:expr) => {
        match $answer {
            Ok(value) => value,
            Err(marked) => return Ok(Err(marked)),
        }
    };
}

impl Searcher {
    async fn row(&self, item: Item) -> Result<Result<Fate, Fate>> {
        let mut state = match State::start(item) {
            Ok(state) => state,
            Err(reason) => return Ok(Err(Fate::dropped(format!("the row's chain cannot be read: {reason}"), vec![]))),
        };
        for attempt in 0..self.settings.attempts.max(1) {
            if attempt > 0 {
                parsed!(self.restart(&mut state, attempt).await?);
            }
            for _ in 0..self.settings.rounds {
                if !state.verdict {
                    parsed!(self.round(&mut state).await?);
                }
            }
            if state.verdict {
                return Ok(Ok(state.solved()));
            }
        }
        match self.settings.reveal {
            true => self.tell(state).await,
            false => Ok(Ok(state.given_up())),
        }
    }

    /// One strategy, the chain that follows from it, and the verdict on its conclusion.
    async fn round(&self, state: &mut State) -> Result<Result<(), Fate>> {
        let strategy = self.strategy(state);
        state.strategies.push(strategy);
        let also = [("strategy", json!(strategy.word())), ("round", json!(state.strategies.len()))];
        let asked = state.asked(also);
        let more = parsed!(self.search.ask(asked, Chain::parse).await?);
        state.chain = state.chain.clone().continued(more);
        self.judge(state).await
    }

    async fn judge(&self, state: &mut State) -> Result<Result<(), Fate>> {
        state.verdict =
            parsed!(self.judge.ask(state.id.clone(), state.chain.conclusion().to_string(), state.truth.clone()).await?);
        Ok(Ok(()))
    }

    async fn restart(&self, state: &mut State, attempt: u32) -> Result<Result<(), Fate>> {
        state.attempt = attempt;
        state.strategies.clear();
        if self.settings.restart == Restart::Keep {
            return Ok(Ok(()));
        }
        let asked = Asked { row_id: state.id.clone(), row: state.row.clone(), sample: attempt };
        state.chain = parsed!(self.cot.ask(asked, Chain::parse).await?);
        self.judge(state).await
    }

    async fn tell(&self, mut state: State) -> Result<Result<Fate, Fate>> {
        let told = parsed!(self.reveal.ask(state.asked([]), Chain::parse).await?);
        state.chain = state.chain.continued(told);
        Ok(Ok(Fate::kept("told the answer after the last attempt", state.cells(true))))
    }

    /// Drawn for this row, attempt and round alone. Backtracking needs an earlier round.
    fn strategy(&self, state: &State) -> Strategy {
        let mut weights = self.settings.weights();
        let fresh = state.attempt == 0 || self.settings.restart == Restart::Fresh;
        if state.strategies.is_empty() && fresh {
            weights[1] = 0.0;
        }
        let draw = self.draw.of(&state.id).at(state.attempt.into()).at(state.strategies.len() as u64);
        let fallback = [1.0, 0.0, 1.0, 1.0];
        let index = draw.weighted(&weights).or_else(|| draw.weighted(&fallback));
        STRATEGIES[index.expect("the fallback has positive weights")]
    }
}

impl State {
    fn start(item: Item) -> Result<State, String> {
        let row = item.object();
        let chain = Chain::from_value(&row["chain"])?;
        let truth = item.text("truth").to_string();
        let verdict = row["verdict"].as_bool().unwrap_or(false);
        Ok(State { id: item.id, row, truth, chain, verdict, attempt: 0, strategies: Vec::new() })
    }

    /// The row as it stands by now.
    fn asked<const N: usize>(&self, also: [(&'static str, Value); N]) -> Asked {
        let now = [("chain", self.chain.to_value()), ("conclusion", json!(self.chain.conclusion()))];
        let row = with(self.row.clone(), now.into_iter().chain(also));
        Asked { row_id: self.id.clone(), row, sample: self.attempt }
    }

    fn solved(self) -> Fate {
        let attempt = self.attempt + 1;
        let outcome = match (self.strategies.last(), attempt) {
            (None, 1) => "solved at once".to_string(),
            (None, _) => format!("solved at once in attempt {attempt}"),
            (Some(strategy), _) => {
                format!("solved in round {} of attempt {attempt} by {}", self.strategies.len(), strategy.word())
            }
        };
        Fate::kept(outcome, self.cells(false))
    }

    fn given_up(self) -> Fate {
        Fate::dropped(format!("dropped after {} attempts", self.attempt + 1), self.cells(false))
    }

    /// In the order of [`ADDED`].
    fn cells(&self, told: bool) -> Vec<Value> {
        let strategies: Vec<&str> = self.strategies.iter().map(|strategy| strategy.word()).collect();
        vec![
            self.chain.to_value(),
            json!(self.chain.conclusion()),
            json!(self.verdict),
            json!(self.strategies.len()),
            json!(self.attempt + 1),
            json!(strategies),
            json!(told),
        ]
    }
}
