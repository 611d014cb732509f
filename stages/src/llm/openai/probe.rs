//! What a server can do, found out with a few small calls: only what was observed counts, not what a server says of itself.

use super::body::body;
use super::dialect::{self, Dialect};
use super::settings::OpenAiSettings;
use super::stream::Assembly;
use super::{envelope, fault};
use crate::failure::{Failure, Result};
use crate::llm::endpoint::{Endpoints, Target, of_transport};
use crate::llm::key::Key;
use crate::llm::{Fault, Reply, ReplyFormat, Request, Task, Usage};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Tokens of an answer at most: room for a model that thinks before it speaks, and little to pay.
const TOKENS_MAX: u32 = 256;
/// A server may be starting; the second try counts.
const TRIES: u32 = 2;
const PAUSE_MAX_MS: u64 = 5_000;
/// Headers in which servers tell their limits begin with one of these.
const LIMIT_HEADERS: [&str; 3] = ["x-ratelimit-", "ratelimit", "anthropic-ratelimit-"];
/// No model writes these unless a schema makes it.
const SCHEMA_FIELD: &str = "quince_4711";
const SCHEMA_WORD: &str = "zwetschge";
/// Ways to tell a schema that differ, besides the recipe's own.
const OTHER_DIALECTS: [Dialect; 4] = [Dialect::OpenAi, Dialect::LlamaCpp, Dialect::Vllm, Dialect::VllmGuided];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    No,
    /// What came tells neither.
    Unknown,
    /// A figure, not a question of yes or no.
    Told,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub what: &'static str,
    pub verdict: Verdict,
    pub detail: String,
}

/// What a few calls showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Probed {
    pub findings: Vec<Finding>,
    /// That may cost something; a list of models does not.
    pub calls: u32,
    pub usage: Usage,
    /// `None` where the recipe states no prices.
    pub cost_usd: Option<f64>,
}

/// Asks the server of a model what it can do.
///
/// # Errors
/// If it does not answer a plain question: [`Failure::Remote`] where it may do so later, [`Failure::Recipe`] where the recipe, the key
/// or the name is wrong.
pub async fn probe(settings: &OpenAiSettings) -> Result<Probed> {
    let mut prober = Prober::open(settings)?;
    let connect = prober.connect().await;
    let models = prober.models().await;
    let plain =
        prober.call("Reply with the one word: ready", json!({})).await.map_err(|fault| failure(&prober, fault))?;
    let mut findings = vec![prober.answers(&plain), models, latency(connect, &plain)];
    findings.push(prober.streaming().await);
    findings.push(prober.json_schema().await);
    findings.push(prober.seed().await);
    findings.push(prober.logprobs().await);
    findings.push(prober.several().await);
    findings.extend([usage(&plain), prober.limits(&plain)]);
    findings.iter_mut().for_each(|finding| finding.detail = prober.hidden(&finding.detail));
    let cost_usd = settings.prices.0.as_ref().map(|prices| prices.cost_usd(&prober.usage));
    Ok(Probed { findings, calls: prober.calls, usage: prober.usage, cost_usd })
}

fn failure(prober: &Prober, fault: Fault) -> Failure {
    match fault::redact(fault, prober.key.as_ref()) {
        Fault::Passing { message, .. } | Fault::Crowded { message, .. } | Fault::Refused { message, .. } => {
            Failure::Remote(message)
        }
        Fault::Lasting(message) => Failure::Recipe(message),
    }
}

struct Prober<'a> {
    settings: &'a OpenAiSettings,
    client: reqwest::Client,
    base_url: String,
    key: Option<Key>,
    calls: u32,
    usage: Usage,
}

/// A whole answer with what it took.
struct Answer {
    body: Value,
    headers: HeaderMap,
    first_byte: Duration,
    whole: Duration,
}

/// An answer in pieces.
struct Streamed {
    text: String,
    first_piece: Duration,
    read: Result<Reply, Fault>,
}

impl Answer {
    fn choices(&self) -> usize {
        self.body["choices"].as_array().map_or(0, Vec::len)
    }

    fn is_cut_off(&self) -> bool {
        self.body["choices"][0]["finish_reason"] == "length"
    }

    /// The text of the reply, without reasoning.
    fn text(&self) -> String {
        envelope::parse(self.body.to_string().as_bytes()).map(|reply| reply.text).unwrap_or_default()
    }
}

impl<'a> Prober<'a> {
    fn open(settings: &'a OpenAiSettings) -> Result<Prober<'a>> {
        let key = settings.key_source().map(|source| source.read()).transpose()?;
        let endpoint = Endpoints::default().at(&settings.base_url.0, key.as_ref());
        let base_url = settings.base_url.0.trim_end_matches('/').to_string();
        let target = Target::below(&base_url, "chat/completions")?;
        let client = endpoint.connections(&target, settings.timeouts()).reqwest()?.clone();
        Ok(Prober { settings, client, base_url, key, calls: 0, usage: Usage::default() })
    }

    fn hidden(&self, words: &str) -> String {
        self.key.as_ref().map_or_else(|| words.to_string(), |key| key.hide(words))
    }

    /// With the key, and as much time as a run gives.
    fn prepared(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let request = request.timeout(Duration::from_millis(self.settings.timeout_ms.0));
        self.key.iter().fold(request, |request, key| request.header(AUTHORIZATION, key.header()))
    }

    /// How long a bare connection takes; `None` where a proxy or a name stands in between.
    async fn connect(&self) -> Option<Duration> {
        let url = reqwest::Url::parse(&self.base_url).ok()?;
        let (host, port) = (url.host_str()?.trim_matches(['[', ']']), url.port_or_known_default()?);
        let started = Instant::now();
        let limit = Duration::from_millis(self.settings.connect_timeout_ms.0);
        tokio::time::timeout(limit, tokio::net::TcpStream::connect((host, port))).await.ok()?.ok()?;
        Some(started.elapsed())
    }

    async fn models(&self) -> Finding {
        let what = "listed";
        let found = |verdict, detail: String| Finding { what, verdict, detail };
        let response = match self.prepared(self.client.get(format!("{}/models", self.base_url))).send().await {
            Ok(response) => response,
            Err(_) => return found(Verdict::Unknown, "the server gives no list of models".to_string()),
        };
        let status = response.status().as_u16();
        let list: Value =
            response.bytes().await.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        let Some(list) = list["data"].as_array().filter(|_| status == 200) else {
            return found(Verdict::Unknown, format!("the server gives no list of models ({status})"));
        };
        let is_there = list.iter().any(|one| one["id"] == self.settings.model.as_str());
        match is_there {
            true => found(Verdict::Yes, format!("`{}` is one of {} models", self.settings.model, list.len())),
            false => found(
                Verdict::No,
                format!("`{}` is not among the {} models of its list", self.settings.model, list.len()),
            ),
        }
    }

    /// The body of a probing question; what the recipe sets stays, but for the fields that are probed.
    fn body(&self, prompt: &str, fields: &Value) -> Value {
        let task = Task { name: "probe", row_id: String::new(), row: Map::new() };
        let mut body = body(self.settings, &Request::new(prompt.to_string(), ReplyFormat::Text, task));
        let object = body.as_object_mut().expect("a body is an object");
        ["seed", "n", "stream", "logprobs", "response_format", "stream_options"]
            .iter()
            .for_each(|name| _ = object.shift_remove(*name));
        let most = self.settings.max_tokens.map_or(TOKENS_MAX, |most| most.min(TOKENS_MAX));
        object.insert(self.settings.max_tokens_field.clone(), json!(most));
        object.extend(fields.as_object().cloned().unwrap_or_default());
        body
    }

    async fn call(&mut self, prompt: &str, fields: Value) -> Result<Answer, Fault> {
        let body = self.body(prompt, &fields);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.call_once(&body).await {
                Err(Fault::Passing { retry_after_ms, .. }) if tries < TRIES => {
                    let pause_ms = retry_after_ms.unwrap_or(self.settings.pause_ms.0).min(PAUSE_MAX_MS);
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
                ended => return ended,
            }
        }
    }

    async fn call_once(&mut self, body: &Value) -> Result<Answer, Fault> {
        let started = Instant::now();
        let response = self.post(body).await?;
        let first_byte = started.elapsed();
        let (status, headers) = (response.status(), response.headers().clone());
        let raw = response.bytes().await.map_err(of_transport)?;
        let whole = started.elapsed();
        if !status.is_success() {
            return Err(fault::of_status(status.as_u16(), &raw, fault::retry_after_ms(&headers)));
        }
        let reply = envelope::parse(&raw)?;
        self.count(&reply.usage);
        let body = serde_json::from_slice(&raw).expect("it was just read");
        Ok(Answer { body, headers, first_byte, whole })
    }

    async fn post(&mut self, body: &Value) -> Result<reqwest::Response, Fault> {
        self.calls += 1;
        let url = format!("{}/chat/completions", self.base_url);
        self.prepared(self.client.post(url).json(body)).send().await.map_err(of_transport)
    }

    fn answers(&self, plain: &Answer) -> Finding {
        let said = plain.body["model"].as_str();
        let (verdict, says) = match said {
            Some(name) if name == self.settings.model => (Verdict::Yes, format!("as `{name}`")),
            Some(name) => (Verdict::Yes, format!("as `{name}`, asked for `{}`", self.settings.model)),
            None => (Verdict::Yes, "without saying which model it is".to_string()),
        };
        let fingerprint = plain.body["system_fingerprint"].as_str().filter(|print| !print.is_empty());
        let fingerprint = fingerprint.map(|print| format!(", fingerprint `{print}`"));
        Finding { what: "answers", verdict, detail: format!("{says}{}", fingerprint.unwrap_or_default()) }
    }

    async fn streaming(&mut self) -> Finding {
        let body = self.body("Count from 1 to 5.", &json!({"stream": true}));
        let streamed = match self.stream_once(&body).await {
            Ok(streamed) => streamed,
            Err(fault) => return refused("streaming", fault),
        };
        let Streamed { text, first_piece, read } = streamed;
        let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).collect();
        let is_piece = |line: &&&str| {
            serde_json::from_str::<Value>(line).is_ok_and(|piece| piece["choices"][0]["delta"].is_object())
        };
        let pieces = data.iter().filter(is_piece).count();
        let end = if data.last() == Some(&"[DONE]") { "ends with [DONE]" } else { "ends without [DONE]" };
        let (verdict, detail) = match (pieces, read) {
            (_, Err(fault)) => (Verdict::Unknown, fault.to_string()),
            (0, Ok(_)) => (Verdict::No, "the answer came whole".to_string()),
            (_, Ok(reply)) => {
                self.count(&reply.usage);
                (Verdict::Yes, format!("{pieces} pieces, the first after {}, {end}", ms(first_piece)))
            }
        };
        Finding { what: "streaming", verdict, detail }
    }

    /// What comes in answer to a body that asks for a stream, read as a run would read it.
    async fn stream_once(&mut self, body: &Value) -> Result<Streamed, Fault> {
        let started = Instant::now();
        let mut response = self.post(body).await?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            return Err(fault::of_status(status, &response.bytes().await.unwrap_or_default(), None));
        }
        let (mut raw, mut first_piece, mut assembly) = (Vec::new(), None, Assembly::default());
        let mut ended = Ok(());
        while let (Ok(()), Some(chunk)) = (&ended, response.chunk().await.map_err(of_transport)?) {
            first_piece.get_or_insert_with(|| started.elapsed());
            raw.extend_from_slice(&chunk);
            ended = assembly.push(&chunk);
        }
        let read = ended.and_then(|()| assembly.finish()).and_then(|body| envelope::parse(&body));
        let text = String::from_utf8_lossy(&raw).into_owned();
        Ok(Streamed { text, first_piece: first_piece.unwrap_or_default(), read })
    }

    fn count(&mut self, usage: &Usage) {
        self.usage.tokens_in += usage.tokens_in;
        self.usage.tokens_cached += usage.tokens_cached;
        self.usage.tokens_out += usage.tokens_out;
    }

    /// In the recipe's dialect; where that says no more than nothing, in the others, one of which the server may know.
    async fn json_schema(&mut self) -> Finding {
        let own = self.json_schema_in(self.settings.dialect).await;
        if own.verdict == Verdict::Yes {
            return own;
        }
        for dialect in OTHER_DIALECTS.into_iter().filter(|dialect| *dialect != self.settings.dialect) {
            if self.json_schema_in(dialect).await.verdict == Verdict::Yes {
                let detail = format!("{}; it is obeyed with `dialect: {}`", own.detail, dialect.word());
                return Finding { verdict: Verdict::No, detail, ..own };
            }
        }
        own
    }

    async fn json_schema_in(&mut self, dialect: Dialect) -> Finding {
        let schema = json!({"type": "object", "properties": {SCHEMA_FIELD: {"type": "string", "enum": [SCHEMA_WORD]}},
            "required": [SCHEMA_FIELD], "additionalProperties": false});
        let (field, demand) = dialect::demand(dialect, "probe", &schema);
        let called = self.call("Say hello. Answer in JSON.", json!({field: demand})).await;
        found_in("json_schema", called, |answer| {
            let expected = json!({SCHEMA_FIELD: SCHEMA_WORD}).to_string();
            let reply: String = answer.text().split_whitespace().collect();
            let (verdict, detail) = match () {
                () if reply == expected => (Verdict::Yes, "the reply obeys a schema that no model hits by chance"),
                () if answer.is_cut_off() && reply.contains(SCHEMA_FIELD) && expected.starts_with(&reply) => {
                    (Verdict::Yes, "the reply obeys a schema, then came white space until it was cut off")
                }
                () => (Verdict::No, "the schema is ignored"),
            };
            (verdict, detail.to_string())
        })
    }

    async fn seed(&mut self) -> Finding {
        let found = |verdict, detail: &str| Finding { what: "seed", verdict, detail: detail.to_string() };
        let mut texts = Vec::new();
        for seed in [11, 11, 12] {
            match self.call("Write twelve random letters.", json!({"seed": seed, "temperature": 1})).await {
                Ok(answer) => texts.push(answer.text()),
                Err(fault) => return refused("seed", fault),
            }
        }
        match (texts[0] == texts[1], texts[0] == texts[2]) {
            (false, _) => found(Verdict::No, "one seed gave two answers"),
            (true, false) => found(Verdict::Yes, "one seed gave one answer, another seed another"),
            (true, true) => found(Verdict::Unknown, "every seed gave the same answer"),
        }
    }

    async fn logprobs(&mut self) -> Finding {
        let called = self.call("Reply with the one word: ready", json!({"logprobs": true})).await;
        found_in("logprobs", called, |answer| match answer.body["choices"][0]["logprobs"]["content"].as_array() {
            Some(tokens) if !tokens.is_empty() => (Verdict::Yes, format!("of {} tokens", tokens.len())),
            _ => (Verdict::No, "the answer has none".to_string()),
        })
    }

    /// Where answers are drawn: without, some servers refuse to give the same one twice.
    async fn several(&mut self) -> Finding {
        let called = self.call("Reply with the one word: ready", json!({"n": 2, "temperature": 1})).await;
        found_in("n", called, |answer| match answer.choices() {
            2 => (Verdict::Yes, "two answers to one request".to_string()),
            count => (Verdict::No, format!("{count} answer to a request for two")),
        })
    }

    fn declared(&self) -> String {
        let a_minute =
            [("requests", self.settings.requests_per_minute.0), ("tokens", self.settings.tokens_per_minute.0)];
        let a_minute = a_minute.into_iter().filter_map(|(what, most)| Some(format!(", {} {what} a minute", most?)));
        format!("{} requests at a time{}", self.settings.concurrency.0, a_minute.collect::<String>())
    }

    fn limits(&self, plain: &Answer) -> Finding {
        let is_limit = |name: &str| LIMIT_HEADERS.iter().any(|start| name.starts_with(start));
        let told = plain.headers.iter().filter(|(name, _)| is_limit(name.as_str()));
        let mut told: Vec<String> =
            told.filter_map(|(name, value)| Some(format!("{name}: {}", value.to_str().ok()?))).collect();
        told.sort();
        let told = if told.is_empty() {
            "the server tells none".to_string()
        } else {
            format!("the server tells {}", told.join(", "))
        };
        let detail = format!("{} by the recipe; {told}", self.declared());
        Finding { what: "limits", verdict: Verdict::Told, detail }
    }
}

fn found_in(what: &'static str, called: Result<Answer, Fault>, look: impl Fn(&Answer) -> (Verdict, String)) -> Finding {
    match called {
        Ok(answer) => {
            let (verdict, detail) = look(&answer);
            Finding { what, verdict, detail }
        }
        Err(fault) => refused(what, fault),
    }
}

/// Refused for good is a no; a server that stumbles tells nothing, though some stumble over what they do not know.
fn refused(what: &'static str, fault: Fault) -> Finding {
    match fault {
        Fault::Lasting(message) => Finding { what, verdict: Verdict::No, detail: format!("refused: {message}") },
        Fault::Passing { message, .. } | Fault::Crowded { message, .. } | Fault::Refused { message, .. } => {
            Finding { what, verdict: Verdict::Unknown, detail: message }
        }
    }
}

fn latency(connect: Option<Duration>, plain: &Answer) -> Finding {
    let connect = connect.map(|connect| format!("connect {}, ", ms(connect))).unwrap_or_default();
    let detail = format!("{connect}first byte {}, whole {}", ms(plain.first_byte), ms(plain.whole));
    Finding { what: "latency", verdict: Verdict::Told, detail }
}

fn usage(plain: &Answer) -> Finding {
    let count = |name: &str| plain.body["usage"][name].as_u64();
    let (verdict, detail) = match (count("prompt_tokens"), count("completion_tokens")) {
        (Some(tokens_in), Some(tokens_out)) => (Verdict::Yes, format!("{tokens_in} tokens in, {tokens_out} out")),
        _ => (Verdict::No, "the answer tells no tokens: budgets and costs cannot be counted".to_string()),
    };
    Finding { what: "usage", verdict, detail }
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
