//! Asking until a reply can be used: what makes a reply unusable, what is put next, and when no more is asked.

use super::caller::Caller;
use super::correcting;
use super::request::{CUT_OFF, REFUSAL, WITHHELD};
use super::{Reply, Request};
use crate::failure::Result;

/// What came of a question that had to parse.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<T> {
    Parsed(T),
    /// The row may not go to this model, by the rule that the text names. Nothing was sent, and no kept reply was looked for.
    Barred(String),
    /// No reply could be used: why the last one could not, its text, and how many there were.
    Unparsable {
        why: Unusable,
        reason: String,
        text: String,
        asks: u32,
    },
}

/// What keeps a complete reply from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It has not the form that was asked for.
    Unparsable,
    /// It ended at the limit of its tokens, and what there is of it does not parse.
    CutOff,
    /// The model declined.
    Refused,
    /// The server withheld it, or its end.
    Withheld,
}

/// A reply that cannot be used.
struct Bad {
    why: Unusable,
    reason: String,
}

impl Caller {
    /// Asks until a reply can be used, at most `asks` times, each under its own `ask` index. After a reply that cannot, the
    /// conversation goes on with what is wrong with it, unless the model's [`super::Manner`] says otherwise.
    ///
    /// A refusal or a filter ends it at once: the same words would be paid for again. So does a second reply that was cut off, or the
    /// first where nobody tells the model to be shorter.
    ///
    /// Beyond the limit, up to twice as often as `asks`, it goes on only where a reply is kept already or marked rows are to be asked
    /// again (`retry_marked`): what comes out depends on the replies alone, so a later run without that flag sees the same rows.
    pub async fn ask_until<T>(
        &self,
        mut request: Request,
        asks: u32,
        parse: impl Fn(&Reply) -> std::result::Result<T, String>,
    ) -> Result<Outcome<T>> {
        if let Some(reason) = self.barred(&request) {
            return Ok(Outcome::Barred(reason));
        }
        let asks = asks.max(1);
        let (mut limit, mut cut_off) = (asks, false);
        let (mut question, mut last) = (None, None);
        for ask in 0..2 * asks {
            request.ask = ask;
            if ask >= limit && !self.retry_marked && !self.is_kept(&request) {
                break;
            }
            let Some(reply) = self.ask_or_look(&request).await? else { return Ok(not_asked(ask)) };
            let read = read(&reply, &parse);
            self.tell(&request, &reply, read.as_ref().err().map(|bad| bad.reason.as_str()));
            let Bad { why, reason } = match read {
                Ok(value) => return Ok(Outcome::Parsed(value)),
                Err(bad) => bad,
            };
            limit = limit.min(ask + self.asks_after(why, cut_off));
            cut_off |= why == Unusable::CutOff;
            // What was asked at first; most rows never need it again.
            let question = question.get_or_insert_with(|| request.messages.clone());
            request.messages = match self.manner.corrects && matches!(why, Unusable::Unparsable | Unusable::CutOff) {
                true => correcting::messages(question, &reply, why, &reason),
                false => question.clone(),
            };
            last = Some(Outcome::Unparsable { why, reason, text: reply.text, asks: ask + 1 });
        }
        Ok(last.expect("at least one question was put"))
    }

    /// How many asks there may be from a bad reply on, it included.
    fn asks_after(&self, why: Unusable, cut_off_before: bool) -> u32 {
        match why {
            Unusable::Unparsable => u32::MAX / 2,
            Unusable::CutOff if self.manner.corrects && !cut_off_before => 2,
            Unusable::CutOff | Unusable::Refused | Unusable::Withheld => 1,
        }
    }

    fn tell(&self, request: &Request, reply: &Reply, unusable: Option<&str>) {
        match &self.watcher {
            Some(watcher) => watcher.answered(request, reply, unusable),
            None => self.meter.served.note(&self.port, request, reply),
        }
    }
}

/// The value, or why there is none. What was refused or withheld is no answer, whatever it looks like; what was cut off may be whole.
fn read<T>(reply: &Reply, parse: impl Fn(&Reply) -> std::result::Result<T, String>) -> std::result::Result<T, Bad> {
    match reply.finish_reason.as_str() {
        REFUSAL => Err(Bad { why: Unusable::Refused, reason: "the model refused".to_string() }),
        WITHHELD => Err(Bad { why: Unusable::Withheld, reason: "a content filter withheld the reply".to_string() }),
        CUT_OFF => parse(reply).map_err(|reason| Bad { why: Unusable::CutOff, reason: cut_off(reply, &reason) }),
        _ => parse(reply).map_err(|reason| Bad { why: Unusable::Unparsable, reason }),
    }
}

fn cut_off(reply: &Reply, reason: &str) -> String {
    let at = match reply.usage.tokens_out {
        0 => "the limit of its tokens".to_string(),
        tokens => format!("{tokens} tokens"),
    };
    format!("it was cut off at {at} (the model's `max_tokens` sets the limit): {reason}")
}

fn not_asked<T>(asks: u32) -> Outcome<T> {
    Outcome::Unparsable { why: Unusable::Unparsable, reason: "not asked yet".to_string(), text: String::new(), asks }
}
