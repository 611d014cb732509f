//! Who reads whom, found where settings are read and nowhere else: a word that happens to be a node's name is no reference.

use super::super::resolve::{Folders, references};
use super::super::source::Span;
use super::super::tree::{Entry, Tree, Value};
use super::axes::Axis;
use super::binding::Binding;
use super::names::Variants;
use super::{Made, Take};
use indexmap::IndexMap;
use stages::settings::{Reference, Step, Target};
use stages::stage::NodeRef;
use std::collections::HashMap;

/// A node or model of the recipe as it is written.
pub struct Member {
    pub part: &'static str,
    pub name: String,
    /// Where its name stands.
    pub span: Span,
    pub tree: Tree,
    /// For the first value of every axis.
    pub first: Tree,
    /// The axes that its own text uses.
    pub used: Vec<usize>,
}

impl Member {
    pub fn is_single(&self, made: &Made) -> bool {
        made.iter().all(|(binding, _)| binding.is_empty())
    }
}

/// Nodes and models, by their order and by name.
#[derive(Default)]
pub struct Members {
    pub all: Vec<Member>,
    index: HashMap<(&'static str, String), usize>,
}

/// A reference to a member.
pub struct Link {
    pub target: usize,
    pub span: Span,
    at: Vec<Step>,
    /// How many steps of `at` lead to the entry that stands for one arm of a comparison.
    pub arm: Option<usize>,
    output: String,
    /// (axis, value) that the reference names itself.
    pub settled: Vec<(String, String)>,
}

impl Members {
    pub fn add(&mut self, part: &'static str, name: String, entry: Entry, first: Tree, used: Vec<usize>) {
        self.index.insert((part, name.clone()), self.all.len());
        self.all.push(Member { part, name, span: entry.name, tree: entry.tree, first, used });
    }

    /// The member that a name means, and what it says about its variant.
    fn find(&self, part: &'static str, name: &str) -> Option<(usize, Vec<(String, String)>)> {
        let index = |name: &str| self.index.get(&(part, name.to_string())).copied();
        if let Some(exact) = index(name) {
            return Some((exact, Vec::new()));
        }
        let (plain, variant) = name.split_once('/')?;
        let pair = |pair: &str| {
            let (axis, value) = pair.split_once('=').unwrap_or((pair, ""));
            (axis.trim().to_string(), value.trim().to_string())
        };
        Some((index(plain)?, variant.split(',').map(pair).collect()))
    }

    /// What a text would mean if it were a reference: a node, a model, or both.
    fn mentioned(&self, text: &str) -> impl Iterator<Item = (usize, Vec<(String, String)>)> {
        let node = self.find("nodes", &NodeRef::parse(text).node);
        node.into_iter().chain(self.find("models", text))
    }

    /// Members that may have variants or name one: those that use an axis, and whoever mentions such a one.
    pub fn touched(&self) -> Vec<bool> {
        let mut touched: Vec<bool> = self.all.iter().map(|member| !member.used.is_empty()).collect();
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); self.all.len()];
        for (index, member) in self.all.iter().enumerate() {
            member.first.each_text(&mut |text| {
                for (mentioned, settled) in self.mentioned(text) {
                    readers[mentioned].push(index);
                    touched[index] |= !settled.is_empty();
                }
            });
        }
        let mut open: Vec<usize> = (0..touched.len()).filter(|&index| touched[index]).collect();
        while let Some(index) = open.pop() {
            for &reader in &readers[index] {
                if !std::mem::replace(&mut touched[reader], true) {
                    open.push(reader);
                }
            }
        }
        touched
    }

    /// The references of one entry to other members.
    pub fn links(&self, part: &str, tree: &Tree, folders: &Folders) -> Vec<Link> {
        if !tree.has_text(&|text| self.mentioned(text).next().is_some()) {
            return Vec::new();
        }
        let link = |reference: Reference| {
            let (part, name, output) = match reference.to {
                Target::Node(to) => ("nodes", to.node, to.output),
                Target::Model(name) => ("models", name, String::new()),
            };
            let (target, settled) = self.find(part, &name)?;
            let span = tree.place(&reference.at);
            Some(Link { target, span, at: reference.at, arm: reference.arm, output, settled })
        };
        references(part, tree, folders).into_iter().filter_map(link).collect()
    }

    /// Puts every variant where its member stood.
    pub fn put(self, parts: &mut IndexMap<String, Entry>, made: &[Made], axes: &[Axis]) -> Variants {
        let mut variants = Variants::begun();
        for (member, made) in self.all.iter().zip(made) {
            for (binding, tree) in made {
                let name = binding.named(&member.name, axes);
                if !binding.is_empty() {
                    variants.add(member.part, &member.name, &name);
                }
                insert(parts, member, name, tree.clone());
            }
        }
        variants
    }

    /// Puts every member back once, as if no axis had more than one value.
    pub fn put_single(self, parts: &mut IndexMap<String, Entry>) -> Variants {
        for member in &self.all {
            let mut tree = member.first.clone();
            tree.replace_texts(&|text| {
                let is_variant = self.mentioned(text).any(|(_, settled)| !settled.is_empty());
                is_variant.then(|| text.split('/').next().unwrap_or_default().to_string())
            });
            insert(parts, member, member.name.clone(), tree);
        }
        Variants::begun()
    }
}

fn insert(parts: &mut IndexMap<String, Entry>, member: &Member, name: String, tree: Tree) {
    if let Some(Entry { tree: Tree { value: Value::Map(entries), .. }, .. }) = parts.get_mut(member.part) {
        entries.insert(name, Entry { name: member.span, tree });
    }
}

impl Link {
    /// The target's variants that fit, each without the axes that the reference settles and as a whole.
    pub fn candidates<'a>(
        &'a self,
        made: &'a Made,
        axes: &'a [Axis],
    ) -> impl Iterator<Item = (Binding, &'a Binding)> + 'a {
        let is_settled = |axis: usize| self.settled.iter().any(|(name, _)| *name == axes[axis].name);
        let fits = |binding: &Binding| {
            let has = |(axis, value): &(String, String)| {
                binding.names(axes).any(|(name, of)| name == axis.as_str() && of == value.as_str())
            };
            self.settled.iter().all(has)
        };
        let fitting = made.iter().map(|(binding, _)| binding).filter(move |binding| fits(binding));
        fitting.map(move |binding| (binding.without(is_settled), binding))
    }

    /// Makes the reference in `tree` name the variant that goes with `binding`; an arm is written out once for each.
    pub fn write(&self, tree: &mut Tree, binding: &Binding, members: &Members, made: &[Made], axes: &[Axis]) {
        let target = &members.all[self.target];
        let name = |whole: &Binding| {
            let node = whole.named(&target.name, axes);
            let reference = NodeRef { node, output: self.output.clone() };
            if target.part == "nodes" { reference.to_string() } else { reference.node }
        };
        let candidates = self.candidates(&made[self.target], axes).filter(|(rest, _)| rest.agrees(binding));
        let rests = candidates.map(|(rest, whole)| (rest.without(|axis| binding.value(axis).is_some()), name(whole)));
        let rests: Vec<(Binding, String)> = rests.collect();
        match (self.arm, rests.as_slice()) {
            (Some(arm), [(rest, _), ..]) if rests.len() > 1 || !rest.is_empty() => {
                self.write_arms(tree, arm, &rests, axes);
            }
            (_, [(_, name), ..]) => {
                if let Some(tree) = tree.at_mut(&self.at) {
                    *tree = Tree::plain(name.as_str(), tree.span);
                }
            }
            _ => {}
        }
    }

    /// In place of the entry one for each variant, labelled as variants are, with its place on the axes.
    fn write_arms(&self, tree: &mut Tree, arm: usize, variants: &[(Binding, String)], axes: &[Axis]) {
        let (entry, before) = self.at[..arm].split_last().expect("an arm is an entry of a mapping");
        let Some(Tree { value: Value::Map(entries), .. }) = tree.at_mut(before) else { return };
        let Step::Key(label) = entry else { return };
        for (old, entry) in std::mem::take(entries) {
            if old != *label {
                entries.insert(old, entry);
                continue;
            }
            for (rest, name) in variants {
                let tree = arm_tree(&entry.tree, name, rest, axes);
                entries.insert(format!("{label}/{}", rest.shown(axes)), Entry { name: entry.name, tree });
            }
        }
    }
}

/// `{ node: NAME, axes: { axis: value } }`, with the axes that were written there before.
fn arm_tree(written: &Tree, name: &str, rest: &Binding, axes: &[Axis]) -> Tree {
    let span = written.span;
    let entry = |tree: Tree| Entry { name: span, tree };
    let place = written.get("axes").and_then(Tree::as_map).cloned().unwrap_or_default();
    let more = rest.names(axes).map(|(axis, value)| (axis.to_string(), entry(Tree::plain(value, span))));
    let place = Tree { value: Value::Map(place.into_iter().chain(more).collect()), span };
    let fields = [("node".to_string(), entry(Tree::plain(name, span))), ("axes".to_string(), entry(place))];
    Tree { value: Value::Map(fields.into_iter().collect()), span }
}

/// Every member after those that it reads; `None` where some read each other.
pub fn order(takes: &[Vec<Take>]) -> Option<Vec<usize>> {
    let mut missing = vec![0usize; takes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); takes.len()];
    for (index, takes) in takes.iter().enumerate() {
        for link in takes.iter().flat_map(|take| &take.links) {
            missing[index] += 1;
            readers[link.target].push(index);
        }
    }
    let mut order: Vec<usize> = (0..takes.len()).filter(|&index| missing[index] == 0).collect();
    let mut done = 0;
    while let Some(&index) = order.get(done) {
        done += 1;
        for &reader in &readers[index] {
            missing[reader] -= 1;
            if missing[reader] == 0 {
                order.push(reader);
            }
        }
    }
    (order.len() == takes.len()).then_some(order)
}
