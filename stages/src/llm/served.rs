//! Which models answered under one declared identity: servers return a name and a fingerprint, and these may change on the way.

use super::{Reply, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows that a warning names for each model, those with the least ids.
const ROWS_NAMED: usize = 3;
/// Some servers return another fingerprint with each reply: what comes beyond these is counted as one.
const NAMES_MAX: usize = 32;
const OTHERS: &str = "others";

/// Of one node, by port; kept replies count as fresh ones do.
#[derive(Debug, Default)]
pub struct Served(Mutex<BTreeMap<Arc<str>, Vec<Server>>>);

/// What one of several models behind a port answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// The returned name and fingerprint.
    pub name: String,
    pub replies: u64,
    /// Ids of the first rows.
    pub rows: BTreeSet<String>,
}

impl Served {
    pub(super) fn note(&self, port: &Arc<str>, request: &Request, reply: &Reply) {
        if reply.served_by.is_empty() {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(port) {
            all.insert(port.clone(), Vec::new());
        }
        let servers = all.get_mut(port).expect("it was just added");
        let row = request.task.as_ref().map_or("", |task| &task.row_id);
        place(servers, &reply.served_by).note(row);
    }

    /// The ports behind which more than one model answered, with the one that answered most first.
    pub fn changed(&self) -> Vec<(String, Vec<Server>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = all.iter().filter(|(_, servers)| servers.len() > 1);
        let sorted = changed.map(|(port, servers)| {
            let mut servers = servers.clone();
            servers.sort_by(|one, other| other.replies.cmp(&one.replies).then_with(|| one.name.cmp(&other.name)));
            (port.to_string(), servers)
        });
        sorted.collect()
    }
}

fn place<'a>(servers: &'a mut Vec<Server>, name: &str) -> &'a mut Server {
    let known = servers.iter().position(|server| server.name == name);
    let known = known.or_else(|| (servers.len() > NAMES_MAX).then_some(NAMES_MAX));
    let at = known.unwrap_or_else(|| {
        let name = if servers.len() < NAMES_MAX { name } else { OTHERS };
        servers.push(Server { name: name.to_string(), replies: 0, rows: BTreeSet::new() });
        servers.len() - 1
    });
    &mut servers[at]
}

impl Server {
    fn note(&mut self, row: &str) {
        self.replies += 1;
        let is_among_first = self.rows.len() < ROWS_NAMED || self.rows.last().is_some_and(|last| row < last.as_str());
        if is_among_first && !self.rows.contains(row) {
            self.rows.insert(row.to_string());
            if self.rows.len() > ROWS_NAMED {
                self.rows.pop_last();
            }
        }
    }
}

/// What to tell when several models answered under the identity that the recipe declares for `model`.
pub fn warning(model: &str, servers: &[Server]) -> String {
    let each = servers.iter().map(|Server { name, replies, rows }| {
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let more = if *replies > rows.len() as u64 { ", …" } else { "" };
        format!(
            "{replies} {} by `{name}` (rows {}{more})",
            if *replies == 1 { "reply" } else { "replies" },
            rows.join(", ")
        )
    });
    format!(
        "the server of `{model}` named {} different models under one identity: {}; if they are not the same weights, give the model \
         an `identity:` of its own, so that the replies of one are not used for the other",
        servers.len(),
        each.collect::<Vec<_>>().join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{ReplyFormat, Task};
    use serde_json::Map;

    fn note(served: &Served, row: &str, name: &str) {
        let task = Task { name: "solve", row_id: row.to_string(), row: Map::new() };
        let request = Request::new(String::new(), ReplyFormat::Text, task);
        served.note(&"model".into(), &request, &Reply { served_by: name.to_string(), ..Reply::default() });
    }

    #[test]
    fn a_change_names_the_rows_and_one_model_is_none() {
        let served = Served::default();
        (0..9).rev().for_each(|row| note(&served, &format!("r{row}"), "m@main fp_a"));
        note(&served, "r1", "");
        assert_eq!(served.changed(), []);
        note(&served, "r9", "m@main fp_b");
        let [(port, servers)] = served.changed().try_into().unwrap();
        assert_eq!(port, "model");
        let told = warning("teacher", &servers);
        assert!(told.contains("9 replies by `m@main fp_a` (rows r0, r1, r2, …)"), "{told}");
        assert!(told.contains("1 reply by `m@main fp_b` (rows r9)"), "{told}");
        assert!(told.contains("`teacher`") && told.contains("`identity:`"), "{told}");
    }

    #[test]
    fn a_fingerprint_that_never_comes_twice_takes_bounded_room() {
        let served = Served::default();
        (0..1000).for_each(|row| note(&served, &format!("r{row}"), &format!("m fp_{row}")));
        let servers = &served.changed()[0].1;
        assert_eq!((servers.len(), servers[0].replies, servers[0].name.as_str()), (NAMES_MAX + 1, 968, OTHERS));
    }
}
