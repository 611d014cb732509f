//! A variant's place: one value on each of its axes.

use super::axes::Axis;

/// (axis, value) by number, sorted by axis.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Binding(Vec<(usize, usize)>);

impl Binding {
    pub fn value(&self, axis: usize) -> Option<usize> {
        self.0.iter().find(|(own, _)| *own == axis).map(|(_, value)| *value)
    }

    pub fn axes(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|(axis, _)| *axis)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn with(&self, axis: usize, value: usize) -> Binding {
        let mut pairs = self.0.clone();
        pairs.push((axis, value));
        pairs.sort_unstable();
        Binding(pairs)
    }

    /// Without some axes.
    pub fn without(&self, is_gone: impl Fn(usize) -> bool) -> Binding {
        Binding(self.0.iter().copied().filter(|(axis, _)| !is_gone(*axis)).collect())
    }

    /// Whether both have the same value on every axis that both have.
    pub fn agrees(&self, other: &Binding) -> bool {
        self.0.iter().all(|(axis, value)| other.value(*axis).is_none_or(|theirs| theirs == *value))
    }

    /// Both together, where they agree.
    pub fn joined(&self, other: &Binding) -> Option<Binding> {
        let new = other.0.iter().filter(|(axis, _)| self.value(*axis).is_none());
        self.agrees(other).then(|| new.fold(self.clone(), |joined, (axis, value)| joined.with(*axis, *value)))
    }

    /// The names of axes and values, in the order of the axes.
    pub fn names<'a>(&'a self, axes: &'a [Axis]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().map(|&(axis, value)| (axes[axis].name.as_str(), axes[axis].values[value].name.as_str()))
    }

    /// `epochs=3,lr=low`.
    pub fn shown(&self, axes: &[Axis]) -> String {
        self.names(axes).map(|(axis, value)| format!("{axis}={value}")).collect::<Vec<_>>().join(",")
    }

    /// `student/epochs=3,lr=low`; the plain name of what has no variants.
    pub fn named(&self, name: &str, axes: &[Axis]) -> String {
        if self.is_empty() { name.to_string() } else { format!("{name}/{}", self.shown(axes)) }
    }
}

/// Every combination of the values of `chosen` axes, the last axis changing fastest; `None` for more than `most`.
pub fn product(axes: &[Axis], chosen: &[usize], most: usize) -> Option<Vec<Binding>> {
    let count = chosen.iter().try_fold(1usize, |count, &axis| count.checked_mul(axes[axis].values.len()));
    count.filter(|count| *count <= most)?;
    let longer = |bindings: Vec<Binding>, &axis: &usize| {
        let values = 0..axes[axis].values.len();
        bindings.iter().flat_map(|binding| values.clone().map(|value| binding.with(axis, value))).collect()
    };
    Some(chosen.iter().fold(vec![Binding::default()], longer))
}

/// Every pair that agrees, joined; `None` for more than `most`.
pub fn join(left: &[Binding], right: &[Binding], most: usize) -> Option<Vec<Binding>> {
    let mut joined = Vec::new();
    for left in left {
        joined.extend(right.iter().filter_map(|right| left.joined(right)));
        if joined.len() > most {
            return None;
        }
    }
    Some(joined)
}
