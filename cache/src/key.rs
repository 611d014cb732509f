//! What goes into a key: an ordered, nested record of named ingredients that is hashed, stored beside the key and read by `explain`.
//!
//! One walk, two visitors: `KeyVisitor` hashes what the walk shows it, `LeafVisitor` lists it. So the explanation is the key.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::hash::{ActionKey, Digest, Hasher, ReplyAddress};

const ACTION_DOMAIN: &str = "decoct 1 action key";
const REPLY_DOMAIN: &str = "decoct 1 reply address";
const JSON_DOMAIN: &str = "decoct 1 canonical json";

/// Named ingredients, kept in the order they were given (for reading), hashed in the order of their names.
///
/// Numbers hash by type and bits: `1` is not `1.0`, `-0.0` is not `0.0`, and all NaNs are one. A spelling that differs costs a
/// rerun; a key shared by two meanings would cost wrong rows. Fill in defaults through typed settings and the question never arises.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Preimage(Map<String, Value>);

impl Preimage {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds any JSON value.
    ///
    /// # Panics
    /// If `name` was given before: one ingredient would hide the other.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let before = self.0.insert(name.to_owned(), value.into());
        assert!(before.is_none(), "ingredient `{name}` given twice");
        self
    }

    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        self.with(name, value)
    }

    /// Non-finite numbers, which JSON lacks, are written as `{"float": "nan"}` and so on.
    #[must_use]
    pub fn float(self, name: &str, value: f64) -> Self {
        self.with(name, float(value))
    }

    #[must_use]
    pub fn hash(self, name: &str, value: impl std::fmt::Display) -> Self {
        self.with(name, value.to_string())
    }

    #[must_use]
    pub fn group(self, name: &str, value: Preimage) -> Self {
        self.with(name, Value::Object(value.0))
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub fn action_key(&self) -> ActionKey {
        ActionKey(self.digest(ACTION_DOMAIN))
    }

    pub fn reply_address(&self) -> ReplyAddress {
        ReplyAddress(self.digest(REPLY_DOMAIN))
    }

    /// Shows every ingredient to `visitor`, names in sorted order.
    pub fn walk(&self, visitor: &mut impl Visitor) {
        walk_object(&self.0, visitor);
    }

    /// Every leaf by its path, such as `settings.sampling.temperature` or `messages[0].content`.
    pub fn leaves(&self) -> Vec<(String, Value)> {
        let mut visitor = LeafVisitor::default();
        self.walk(&mut visitor);
        visitor.leaves
    }

    /// The leaves in which `self` (older) and `newer` differ: empty exactly when both have one key.
    pub fn differences(&self, newer: &Preimage) -> Vec<Difference> {
        let old = self.leaves().into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let new = newer.leaves().into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let paths = old.keys().chain(new.keys()).collect::<std::collections::BTreeSet<_>>();
        paths
            .into_iter()
            .filter(|path| old.get(*path).map(leaf_hash) != new.get(*path).map(leaf_hash))
            .map(|path| Difference { path: path.clone(), old: old.get(path).cloned(), new: new.get(path).cloned() })
            .collect()
    }

    fn digest(&self, domain: &str) -> Digest {
        let mut visitor = KeyVisitor(Hasher::new(domain));
        self.walk(&mut visitor);
        visitor.0.finish()
    }
}

/// One ingredient that is not what it was; `None` where it is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub path: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// Hash of a JSON value that ignores the order of object keys; numbers as in [`Preimage`].
pub fn canonical_json_hash(value: &Value) -> Digest {
    let mut visitor = KeyVisitor(Hasher::new(JSON_DOMAIN));
    walk(value, &mut visitor);
    visitor.0.finish()
}

fn float(value: f64) -> Value {
    let name = match value {
        v if v.is_nan() => "nan",
        f64::INFINITY => "inf",
        f64::NEG_INFINITY => "-inf",
        _ => return Number::from_f64(value).expect("finite numbers are JSON").into(),
    };
    serde_json::json!({ "float": name })
}

/// What a walk shows, in order: containers with their sizes, names before their values.
pub trait Visitor {
    fn open_object(&mut self, len: usize);
    fn open_list(&mut self, len: usize);
    fn name(&mut self, name: &str);
    fn index(&mut self, index: usize);
    fn leaf(&mut self, leaf: &Value);
    /// The value of the last name or index is complete.
    fn leave(&mut self);
}

fn walk(value: &Value, visitor: &mut impl Visitor) {
    match value {
        Value::Object(fields) => walk_object(fields, visitor),
        Value::Array(items) => walk_list(items, visitor),
        leaf => visitor.leaf(leaf),
    }
}

fn walk_object(fields: &Map<String, Value>, visitor: &mut impl Visitor) {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    visitor.open_object(sorted.len());
    for (name, value) in sorted {
        visitor.name(name);
        walk(value, visitor);
        visitor.leave();
    }
}

fn walk_list(items: &[Value], visitor: &mut impl Visitor) {
    visitor.open_list(items.len());
    for (index, item) in items.iter().enumerate() {
        visitor.index(index);
        walk(item, visitor);
        visitor.leave();
    }
}

/// Hashes: a tag for each shape, then its length or fixed-width value.
struct KeyVisitor(Hasher);

impl KeyVisitor {
    fn tagged(&mut self, tag: u8, value: &[u8]) {
        self.0.raw(&[tag]).raw(value);
    }

    fn number(&mut self, number: &Number) {
        let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        match integer {
            Some(integer) => self.tagged(b'i', &integer.to_le_bytes()),
            None => self.tagged(b'f', &number.as_f64().expect("a JSON number").to_bits().to_le_bytes()),
        }
    }
}

impl Visitor for KeyVisitor {
    fn open_object(&mut self, len: usize) {
        self.tagged(b'{', &(len as u64).to_le_bytes());
    }

    fn open_list(&mut self, len: usize) {
        self.tagged(b'[', &(len as u64).to_le_bytes());
    }

    fn name(&mut self, name: &str) {
        self.0.bytes(name.as_bytes());
    }

    fn index(&mut self, _: usize) {}

    fn leaf(&mut self, leaf: &Value) {
        match leaf {
            Value::Null => self.tagged(b'n', &[]),
            Value::Bool(flag) => self.tagged(b'b', &[u8::from(*flag)]),
            Value::Number(number) => self.number(number),
            Value::String(text) => {
                self.0.raw(b"s").bytes(text.as_bytes());
            }
            Value::Array(_) | Value::Object(_) => unreachable!("containers are walked, not shown as leaves"),
        }
    }

    fn leave(&mut self) {}
}

/// Lists: a leaf is a scalar or an empty container (so that `[]` → absent shows up as a difference).
#[derive(Default)]
struct LeafVisitor {
    /// Length of `path` before each open name or index.
    marks: Vec<usize>,
    path: String,
    leaves: Vec<(String, Value)>,
}

impl LeafVisitor {
    fn push(&mut self, step: std::fmt::Arguments<'_>) {
        self.marks.push(self.path.len());
        std::fmt::Write::write_fmt(&mut self.path, step).expect("strings take any text");
    }
}

impl Visitor for LeafVisitor {
    fn open_object(&mut self, len: usize) {
        if len == 0 && !self.path.is_empty() {
            self.leaf(&Value::Object(Map::new()));
        }
    }

    fn open_list(&mut self, len: usize) {
        if len == 0 {
            self.leaf(&Value::Array(Vec::new()));
        }
    }

    fn name(&mut self, name: &str) {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
        let dot = if self.path.is_empty() { "" } else { "." };
        match plain {
            true => self.push(format_args!("{dot}{name}")),
            // Quoted, so that the name `a.b` and the path a → b cannot be mistaken for each other.
            false => self.push(format_args!("{dot}{name:?}")),
        }
    }

    fn index(&mut self, index: usize) {
        self.push(format_args!("[{index}]"));
    }

    fn leaf(&mut self, leaf: &Value) {
        self.leaves.push((self.path.clone(), leaf.clone()));
    }

    fn leave(&mut self) {
        let mark = self.marks.pop().expect("every leave follows a name or an index");
        self.path.truncate(mark);
    }
}

fn leaf_hash(leaf: &Value) -> Digest {
    canonical_json_hash(leaf)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn preimage(value: Value) -> Preimage {
        serde_json::from_value(value).unwrap()
    }

    fn check(a: Value, b: Value, same: bool) {
        let (old, new) = (preimage(json!({ "x": a.clone() })), preimage(json!({ "x": b.clone() })));
        assert_eq!(old.action_key() == new.action_key(), same, "{a} and {b}");
        assert_eq!(old.differences(&new).is_empty(), same, "{a} and {b}");
    }

    #[test]
    fn only_the_same_meaning_has_the_same_key() {
        check(json!({ "a": 1, "b": 2 }), json!({ "b": 2, "a": 1 }), true);
        check(json!(1), json!(1.0), false);
        check(json!(0.0), json!(-0.0), false);
        check(json!(u64::MAX), json!(-1), false);
        check(json!("1"), json!(1), false);
        check(json!(null), json!(""), false);
        check(json!([]), json!({}), false);
        check(json!([]), json!(null), false);
        check(json!([1, 2]), json!([2, 1]), false);
        check(json!([[1], 2]), json!([[1, 2]]), false);
        check(json!({ "a": { "b": 1 } }), json!({ "a.b": 1 }), false);
        check(json!({ "a": {} }), json!({}), false);
        check(json!(["ab", "c"]), json!(["a", "bc"]), false);
        check(float(f64::NAN), float(-f64::NAN), true);
        check(float(f64::INFINITY), float(f64::NEG_INFINITY), false);
    }

    #[test]
    fn one_request_is_not_one_action() {
        let request = Preimage::new().text("prompt", "hello");
        assert_ne!(request.action_key().0, request.reply_address().0);
    }

    #[test]
    fn a_difference_names_its_path_and_both_values() {
        let old = Preimage::new().text("kind", "cot").with("messages", json!([{ "content": "be brief" }]));
        let new = Preimage::new().text("kind", "cot").with("messages", json!([{ "content": "be clear" }]));
        let expected = Difference {
            path: "messages[0].content".into(),
            old: Some("be brief".into()),
            new: Some("be clear".into()),
        };
        assert_eq!(old.differences(&new), [expected]);
    }

    #[test]
    #[should_panic(expected = "ingredient `seed` given twice")]
    fn no_ingredient_hides_another() {
        let _ = Preimage::new().with("seed", 1).with("seed", 2);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(float),
            "\\PC{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("\\PC{0,3}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The stored preimage is the key: what is read back from the manifest hashes to the same.
        #[test]
        fn a_preimage_survives_its_own_json(value in any_json()) {
            let original = Preimage::new().with("x", value);
            let text = serde_json::to_string(&original).unwrap();
            let read: Preimage = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read.action_key(), original.action_key());
            prop_assert!(read.differences(&original).is_empty());
        }

        #[test]
        fn keys_differ_exactly_where_explain_sees_a_difference(a in any_json(), b in any_json()) {
            let (old, new) = (Preimage::new().with("x", a), Preimage::new().with("x", b));
            prop_assert_eq!(old.action_key() == new.action_key(), old.differences(&new).is_empty());
        }
    }
}
