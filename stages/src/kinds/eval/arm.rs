//! One arm of a comparison: a model and, where it is a variant, what tells it from the others.

use crate::settings::{Reader, Setting, Settings, Step};
use crate::stage::NodeRef;
use indexmap::IndexMap;
use serde_json::{Value, json};

/// A node, or a node with its place on the axes along which it is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    pub node: NodeRef,
    /// Axis: the name of its value.
    pub axes: IndexMap<String, String>,
}

crate::settings! {
    /// An arm that is written out.
    pub struct Placed {
        pub node: NodeRef,
        /// Axis: value; each axis becomes a column of the results.
        pub axes: IndexMap<String, String> = IndexMap::new(),
    }
}

impl serde::Serialize for Arm {
    /// As a node's name, which is no part of any identity.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.node.serialize(serializer)
    }
}

impl Setting for Arm {
    fn read(value: &Value, reader: &mut Reader) -> Option<Arm> {
        reader.arm(|reader| match value {
            Value::Object(fields) => {
                Placed::read_fields(fields, reader).map(|Placed { node, axes }| Arm { node, axes })
            }
            name => NodeRef::read(name, reader).map(|node| Arm { node, axes: IndexMap::new() }),
        })
    }

    fn schema() -> Value {
        json!({"anyOf": [NodeRef::schema(), Placed::schema()]})
    }
}

impl Arm {
    /// A label without the values of the axes, which have columns of their own.
    pub fn plain_label<'a>(&self, label: &'a str) -> &'a str {
        let values: Vec<String> = self.axes.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        label.strip_suffix(&values.join(",")).and_then(|label| label.strip_suffix('/')).unwrap_or(label)
    }

    /// Its value on each of `axes`.
    pub fn place(&self, axes: &[&str]) -> Vec<Option<&str>> {
        axes.iter().map(|axis| self.axes.get(*axis).map(String::as_str)).collect()
    }
}

/// Every axis that some arm has a place on, in the order of their first appearance.
pub fn axes(arms: &IndexMap<String, Arm>) -> Vec<&str> {
    let mut axes: Vec<&str> = Vec::new();
    for axis in arms.values().flat_map(|arm| arm.axes.keys()) {
        if !axes.contains(&axis.as_str()) {
            axes.push(axis);
        }
    }
    axes
}

/// An axis becomes a column, and must not take the place of another.
pub fn check(arms: &IndexMap<String, Arm>, columns: &[&str], reader: &mut Reader) {
    for axis in axes(arms).into_iter().filter(|axis| columns.contains(axis)) {
        let hint = Some(format!("these names are taken: `{}`", columns.join("`, `")));
        let message = format!("the axis `{axis}` would be a second column `{axis}` of the results");
        reader.within(Step::Key("models".into()), |reader| reader.mistake("taken-name", message, hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> (Option<IndexMap<String, Arm>>, Reader) {
        let mut reader = Reader::default();
        let arms = reader.within(Step::Key("models".into()), |reader| IndexMap::read(&value, reader));
        (arms, reader)
    }

    #[test]
    fn an_arm_is_a_node_with_or_without_its_place() {
        let (arms, reader) = read(json!({"base": "student.base", "w/o x": {"node": "b"},
            "s/lr=low": {"node": "student/lr=low", "axes": {"lr": "low"}}, "g": {"node": "g", "axes": {"kl": "0"}}}));
        let arms = arms.unwrap();
        assert_eq!(axes(&arms), ["lr", "kl"]);
        let plain: Vec<&str> = arms.iter().map(|(label, arm)| arm.plain_label(label)).collect();
        assert_eq!(plain, ["base", "w/o x", "s", "g"]);
        // The entry of the mapping is what a node with variants is written out in, however it names its node.
        let entries: Vec<(usize, Option<usize>)> =
            reader.references.iter().map(|reference| (reference.at.len(), reference.arm)).collect();
        assert_eq!(entries, [(2, Some(2)), (3, Some(2)), (3, Some(2)), (3, Some(2))]);
    }

    #[test]
    fn an_axis_cannot_be_a_column_that_is_there_already() {
        let (arms, mut reader) = read(json!({"a": {"node": "a", "axes": {"mode": "x"}}}));
        check(&arms.unwrap(), &["model", "mode"], &mut reader);
        assert_eq!(reader.mistakes.iter().map(|mistake| mistake.code).collect::<Vec<_>>(), ["taken-name"]);
    }
}
