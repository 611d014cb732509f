//! `matrix:`: axes, names with several values. What uses an axis becomes one variant for each value, and so does what reads a variant;
//! what uses none stays single, so common work is shared. It happens to the tree, before any setting is read: everything behind it sees
//! ordinary nodes, whose places are those of the one text that they were written as.

mod axes;
mod binding;
mod links;
mod names;
#[cfg(test)]
mod tests;

pub use axes::{MATRIX, pin};
pub use names::Variants;

use super::diagnostic::{Diagnostic, Place};
use super::params::{self, Substitution};
use super::resolve::Folders;
use super::source::{Sources, Span};
use super::tree::{Entry, Tree, Value};
use axes::{Axis, Written};
use binding::{Binding, join, product};
use indexmap::IndexMap;
use links::{Link, Members};
use stages::settings::Findings;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Nodes and models that variants may amount to: more is a slip, and would only fill the memory.
const MADE_MAX: usize = 10_000;
/// Parts of a recipe whose entries can have variants; models may run nodes, and nodes ask models.
const PARTS: [&str; 2] = ["models", "nodes"];

/// Puts parameters and axes in. Mistakes that stand in the way of variants leave every node single, so that its own are found all the same.
pub fn expand(
    tree: &mut Tree,
    path: &Path,
    findings: &Option<Arc<dyn Findings>>,
    sources: &Sources,
    mistakes: &mut Vec<Diagnostic>,
) -> Variants {
    let Value::Map(parts) = &mut tree.value else { return Variants::default() };
    let written = if sources.mention(MATRIX) { axes::take(parts, mistakes) } else { Vec::new() };
    if written.is_empty() {
        params::substitute(tree, sources, mistakes);
        return Variants::default();
    }
    let mut expansion = Expansion::new(parts, written, sources, mistakes);
    expansion.other_parts(parts);
    let folders = Folders::of(path, parts.get("prompts").map(|entry| &entry.tree), findings.clone());
    let members = expansion.members(parts);
    match expansion.variants(&members, &folders) {
        Some(variants) if !expansion.is_broken => members.put(parts, &variants, &expansion.axes),
        _ => members.put_single(parts),
    }
}

struct Expansion<'a> {
    axes: Vec<Axis>,
    /// Axes of the whole recipe, then those of single nodes.
    shared: Vec<usize>,
    own: HashMap<String, Vec<usize>>,
    /// As they are written: they may use axes.
    params: Option<Tree>,
    sources: &'a Sources,
    mistakes: &'a mut Vec<Diagnostic>,
    /// A mistake was found that leaves no sense in variants.
    is_broken: bool,
}

/// A node or model as it is for one choice among the values that its own text uses.
struct Take {
    binding: Binding,
    tree: Tree,
    links: Vec<Link>,
}

/// The variants of one node or model.
type Made = Vec<(Binding, Tree)>;

impl<'a> Expansion<'a> {
    fn new(
        parts: &IndexMap<String, Entry>,
        written: Vec<Written>,
        sources: &'a Sources,
        mistakes: &'a mut Vec<Diagnostic>,
    ) -> Expansion<'a> {
        let params = parts.get("params").map(|entry| entry.tree.clone());
        let (axes, shared, own) = (Vec::new(), Vec::new(), HashMap::new());
        let mut expansion = Expansion { axes, shared, own, params, sources, mistakes, is_broken: false };
        let is_shared = |axis: &&Written| axis.node.is_none();
        let names: Vec<String> = written.iter().filter(is_shared).map(|axis| axis.name().to_string()).collect();
        written.into_iter().for_each(|axis| expansion.add(axis, &names));
        expansion
    }

    /// Reads an axis; one that another node declares in the same words is the same.
    fn add(&mut self, mut written: Written, shared: &[String]) {
        let mut substitution = Substitution::new(self.sources, self.mistakes);
        // Only to see whether one is used: axes have no values yet.
        shared.iter().for_each(|name| substitution.bind(name, Tree::plain(name.as_str(), Span::default())));
        if let Some(params) = &self.params {
            substitution.read(&mut params.clone());
        }
        substitution.tree(&mut written.tree);
        let used = substitution.used;
        let before = self.mistakes.len();
        if let Some(used) = used.first() {
            let message = format!("the values of the axis `{}` cannot depend on the axis `{used}`", written.name());
            let hint = Some("write the values out".to_string());
            let place = Place::At(written.span());
            self.mistakes.push(Diagnostic::error("axis-out-of-place", place, message).with_hint(hint));
        }
        let node = written.node.clone();
        let axis = written.read(self.sources, self.mistakes);
        self.is_broken |= self.mistakes.len() > before;
        let known = self.axes.iter().position(|known| known.is_same(&axis));
        let index = known.unwrap_or_else(|| {
            self.axes.push(axis);
            self.axes.len() - 1
        });
        match node {
            None => self.shared.push(index),
            Some(node) => self.own.entry(node).or_default().push(index),
        }
    }

    /// The axes that an entry sees, in their order: its own hide those of the recipe.
    fn scope(&self, part: &str, name: &str) -> Vec<usize> {
        let own = self.own.get(name).filter(|_| part == "nodes").map_or(&[][..], Vec::as_slice);
        let is_hidden = |axis: &usize| own.iter().any(|own| self.axes[*own].name == self.axes[*axis].name);
        let mut scope: Vec<usize> = self.shared.iter().copied().filter(|axis| !is_hidden(axis)).collect();
        scope.extend(own);
        scope.sort_unstable();
        scope.dedup();
        scope
    }

    /// Puts in parameters and the values of `binding`, of other axes in `scope` the first; and gives the axes that were used.
    fn substituted(&mut self, tree: &Tree, scope: &[usize], binding: &Binding) -> (Tree, Vec<usize>) {
        let mut tree = tree.clone();
        if !tree.has_text(&|text| text.contains("${")) {
            return (tree, Vec::new());
        }
        let mut substitution = Substitution::new(self.sources, self.mistakes);
        for &index in scope {
            let axis = &self.axes[index];
            match axis.values.get(binding.value(index).unwrap_or(0)) {
                Some(value) => substitution.bind(&axis.name, value.tree.clone()),
                None => substitution.leave(&axis.name),
            }
        }
        if let Some(params) = &self.params {
            substitution.read(&mut params.clone());
        }
        substitution.tree(&mut tree);
        let used = substitution.used;
        (tree, scope.iter().copied().filter(|axis| used.contains(&self.axes[*axis].name)).collect())
    }

    /// What is neither node nor model is the same for all variants.
    fn other_parts(&mut self, parts: &mut IndexMap<String, Entry>) {
        let shared = self.shared.clone();
        let is_other = |name: &str| !PARTS.contains(&name) && name != "profiles";
        for (name, part) in parts.iter_mut().filter(|(name, _)| is_other(name)) {
            let (tree, used) = self.substituted(&part.tree, &shared, &Binding::default());
            part.tree = tree;
            if name != "params"
                && let Some(&axis) = used.first()
            {
                self.out_of_place(name, part.name, axis);
            }
        }
        let seed = self.params.as_ref().and_then(|params| params.get("seed")).cloned();
        let used = seed.map(|seed| (seed.span, self.substituted(&seed, &shared, &Binding::default()).1));
        if let Some((span, &[axis, ..])) = used.as_ref().map(|(span, used)| (*span, used.as_slice())) {
            self.out_of_place("params.seed", span, axis);
        }
    }

    fn out_of_place(&mut self, what: &str, span: Span, axis: usize) {
        let name = &self.axes[axis].name;
        let message = format!("`{what}` is the same for all nodes, and cannot use the axis `{name}`");
        let hint = format!("use `${{{name}}}` in the nodes and models that it should vary");
        self.mistakes.push(Diagnostic::error("axis-out-of-place", Place::At(span), message).with_hint(Some(hint)));
    }

    /// Takes nodes and models out of the recipe.
    fn members(&mut self, parts: &mut IndexMap<String, Entry>) -> Members {
        let mut members = Members::default();
        for part in PARTS {
            let Some(Entry { tree: Tree { value: Value::Map(entries), .. }, .. }) = parts.get_mut(part) else {
                continue;
            };
            for (name, entry) in std::mem::take(entries) {
                // Like the name of a variant: told where names are checked.
                self.is_broken |= part == "nodes" && name.contains('/');
                let (first, used) = self.substituted(&entry.tree, &self.scope(part, &name), &Binding::default());
                members.add(part, name, entry, first, used);
            }
        }
        self.check_use(&members);
        members
    }

    fn check_use(&mut self, members: &Members) {
        let used: BTreeSet<usize> = members.all.iter().flat_map(|member| member.used.iter().copied()).collect();
        // A use that is misspelt is told already.
        let is_misspelt = self.mistakes.iter().any(|mistake| mistake.code == "unknown-parameter");
        for (index, axis) in self.axes.iter().enumerate().filter(|(index, _)| !used.contains(index) && !is_misspelt) {
            let is_shared = self.shared.contains(&index);
            let place = if is_shared { "a node or model" } else { "the node" };
            let hint = format!("write `${{{}}}` where it should vary {place}, or take it away", axis.name);
            let message = format!("nothing uses the axis `{}`", axis.name);
            self.mistakes.push(Diagnostic::error("unused-axis", Place::At(axis.span), message).with_hint(Some(hint)));
        }
    }

    /// The variants of every member, by its number; none where they cannot be made.
    fn variants(&mut self, members: &Members, folders: &Folders) -> Option<Vec<Made>> {
        let mut takes = self.takes(members, folders)?;
        let mut made: Vec<Made> = members.all.iter().map(|_| Vec::new()).collect();
        let mut count = 0;
        // Names in a circle are told later, like all others.
        for index in links::order(&takes)? {
            let takes = std::mem::take(&mut takes[index]);
            made[index] = self.made(members, index, takes, &made, MADE_MAX - count)?;
            count += if members.all[index].is_single(&made[index]) { 0 } else { made[index].len() };
        }
        Some(made)
    }

    /// Each member for each combination of the values that its own text uses.
    fn takes(&mut self, members: &Members, folders: &Folders) -> Option<Vec<Vec<Take>>> {
        let touched = members.touched();
        let mut count = 0;
        let mut all = Vec::with_capacity(members.all.len());
        for (index, member) in members.all.iter().enumerate() {
            let Some(bindings) = product(&self.axes, &member.used, MADE_MAX - count) else {
                self.too_many(member.span, &member.name, &member.used);
                return None;
            };
            count += if member.used.is_empty() { 0 } else { bindings.len() };
            let scope = self.scope(member.part, &member.name);
            let mut takes = Vec::with_capacity(bindings.len());
            for binding in bindings {
                let tree = match member.used.is_empty() {
                    true => member.first.clone(),
                    false => self.substituted(&member.tree, &scope, &binding).0,
                };
                let links = if touched[index] { members.links(member.part, &tree, folders) } else { Vec::new() };
                takes.push(Take { binding, tree, links });
            }
            all.push(takes);
        }
        Some(all)
    }

    /// Joins what a member uses itself with the variants of what it reads: one axis, one value.
    fn made(&mut self, members: &Members, index: usize, takes: Vec<Take>, made: &[Made], most: usize) -> Option<Made> {
        let member = &members.all[index];
        let mut variants = Vec::new();
        for take in takes {
            let mut bindings = vec![take.binding.clone()];
            for link in &take.links {
                let chosen = self.chosen(members, link, made);
                if link.arm.is_some() || chosen.is_empty() {
                    continue;
                }
                self.check_meeting(link.span, &bindings, &chosen);
                let Some(joined) = join(&bindings, &chosen, most.saturating_sub(variants.len())) else {
                    let axes: BTreeSet<usize> = bindings.iter().chain(&chosen).flat_map(Binding::axes).collect();
                    self.too_many(member.span, &member.name, &Vec::from_iter(axes));
                    return None;
                };
                bindings = joined;
            }
            for binding in bindings {
                let mut tree = take.tree.clone();
                take.links.iter().for_each(|link| link.write(&mut tree, &binding, members, made, &self.axes));
                variants.push((binding, tree));
            }
        }
        // As they would be written in loops, the first axis outermost.
        variants.sort_by(|(left, _), (right, _)| left.cmp(right));
        Some(variants)
    }

    /// The variants that a reference may mean, without the axes that it settles itself.
    fn chosen(&mut self, members: &Members, link: &Link, made: &[Made]) -> Vec<Binding> {
        let all = &made[link.target];
        let chosen: Vec<Binding> = link.candidates(all, &self.axes).map(|(rest, _)| rest).collect();
        if chosen.is_empty() {
            let target = &members.all[link.target].name;
            let names: Vec<String> = all.iter().map(|(binding, _)| binding.named(target, &self.axes)).collect();
            self.mistakes.push(names::unknown_variant(link.span, target, &link.settled, &names));
            self.is_broken = true;
        }
        chosen
    }

    /// Two axes of one name are told apart by their values only, and cannot be one column of a name.
    fn check_meeting(&mut self, span: Span, left: &[Binding], right: &[Binding]) {
        let axes = |bindings: &[Binding]| bindings.iter().flat_map(Binding::axes).collect::<BTreeSet<usize>>();
        let (left, right) = (axes(left), axes(right));
        let name = |axis: usize| self.axes[axis].name.as_str();
        let clash = left.iter().find(|&&l| right.iter().any(|&r| l != r && name(l) == name(r)));
        if let Some(&axis) = clash {
            let message = format!("two axes `{}` with different values meet here", name(axis));
            let hint = Some("give one of them another name, or declare one for the whole recipe".to_string());
            self.mistakes.push(Diagnostic::error("axis-conflict", Place::At(span), message).with_hint(hint));
            self.is_broken = true;
        }
    }

    fn too_many(&mut self, span: Span, name: &str, axes: &[usize]) {
        let counts = axes.iter().map(|&axis| format!("`{}` {}", self.axes[axis].name, self.axes[axis].values.len()));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let message =
            format!("with `{name}` the matrix makes more than {MADE_MAX} nodes and models, which is the limit");
        let hint = format!("give its axes fewer values (now {counts}), or let fewer nodes use them");
        self.mistakes.push(Diagnostic::error("huge-matrix", Place::At(span), message).with_hint(Some(hint)));
    }
}
