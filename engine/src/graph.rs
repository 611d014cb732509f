//! Which node needs which: a petgraph graph behind ids of our own.

use crate::spec::Recipe;
use petgraph::Direction;
use petgraph::graph::DiGraph;
use petgraph::visit::{Dfs, Reversed};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// A node of a [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(petgraph::graph::NodeIndex);

/// Nodes in recipe order; an edge leads from a node to one that needs its output.
#[derive(Debug, Clone)]
pub struct Graph {
    graph: DiGraph<String, ()>,
    order: Vec<NodeIndex>,
}

impl Graph {
    /// The graph of a loaded recipe, which has neither cycles nor unknown names.
    pub fn build(recipe: &Recipe) -> Graph {
        let edges =
            recipe.nodes.values().flat_map(|node| needs(recipe, node).map(move |from| (from, node.name.clone())));
        Graph::new(recipe.nodes.keys().cloned(), edges)
    }

    fn new(names: impl Iterator<Item = String>, edges: impl Iterator<Item = (String, String)>) -> Graph {
        let mut graph = DiGraph::new();
        let indices: HashMap<String, petgraph::graph::NodeIndex> =
            names.map(|name| (name.clone(), graph.add_node(name))).collect();
        for (from, to) in edges {
            graph.update_edge(indices[&from], indices[&to], ());
        }
        let order = topological_order(&graph);
        Graph { graph, order }
    }

    /// Every node after all that it needs; in recipe order as far as that allows.
    pub fn order(&self) -> &[NodeIndex] {
        &self.order
    }

    pub fn name(&self, node: NodeIndex) -> &str {
        &self.graph[node.0]
    }

    pub fn index(&self, name: &str) -> Option<NodeIndex> {
        self.graph.node_indices().find(|index| self.graph[*index] == name).map(NodeIndex)
    }

    /// The nodes that this one needs directly, in recipe order.
    pub fn upstream(&self, node: NodeIndex) -> Vec<NodeIndex> {
        self.neighbours(node, Direction::Incoming)
    }

    /// The nodes that need this one directly, in recipe order.
    pub fn downstream(&self, node: NodeIndex) -> Vec<NodeIndex> {
        self.neighbours(node, Direction::Outgoing)
    }

    /// The node and everything it needs, directly or not.
    pub fn ancestors(&self, node: NodeIndex) -> BTreeSet<NodeIndex> {
        let reversed = Reversed(&self.graph);
        let mut walk = Dfs::new(reversed, node.0);
        std::iter::from_fn(|| walk.next(reversed)).map(NodeIndex).collect()
    }

    fn neighbours(&self, node: NodeIndex, direction: Direction) -> Vec<NodeIndex> {
        let unique: BTreeSet<NodeIndex> = self.graph.neighbors_directed(node.0, direction).map(NodeIndex).collect();
        unique.into_iter().collect()
    }
}

/// Names of the nodes whose outputs a node reads: its inputs, and the nodes behind its local models.
fn needs<'a>(recipe: &'a Recipe, node: &'a crate::spec::Node) -> impl Iterator<Item = String> + 'a {
    let inputs = node.stage.inputs().into_iter().map(|input| input.from.node);
    let models = node.stage.models().into_iter().filter_map(|(_, model)| Some(recipe.model_node(&model)?.node));
    inputs.chain(models)
}

/// Kahn's algorithm; among the nodes that are ready the earliest in the recipe goes first.
fn topological_order(graph: &DiGraph<String, ()>) -> Vec<NodeIndex> {
    let mut missing: Vec<usize> =
        graph.node_indices().map(|index| graph.neighbors_directed(index, Direction::Incoming).count()).collect();
    let mut ready: BTreeSet<_> = graph.node_indices().filter(|index| missing[index.index()] == 0).collect();
    let mut order = Vec::with_capacity(graph.node_count());
    while let Some(index) = ready.pop_first() {
        order.push(NodeIndex(index));
        for next in graph.neighbors(index) {
            missing[next.index()] -= 1;
            if missing[next.index()] == 0 {
                ready.insert(next);
            }
        }
    }
    assert_eq!(order.len(), graph.node_count(), "cycles are found when a recipe is loaded");
    order
}

/// The shortest cycle through each group of nodes that need each other: `[a, b]` for a → b → a. `edges` lead from a node to one that needs it;
/// a cycle starts with the member that is first in `names`.
pub fn cycles<'a>(names: impl Iterator<Item = &'a str>, edges: &[(&'a str, &'a str)]) -> Vec<Vec<String>> {
    let mut graph: DiGraph<&str, ()> = DiGraph::new();
    let mut indices: HashMap<&str, petgraph::graph::NodeIndex> =
        names.map(|name| (name, graph.add_node(name))).collect();
    for (from, to) in edges {
        let [from, to] = [from, to].map(|name| *indices.entry(name).or_insert_with(|| graph.add_node(name)));
        graph.update_edge(from, to, ());
    }
    let groups = petgraph::algo::tarjan_scc(&graph);
    let circular = groups.into_iter().filter(|group| group.len() > 1 || graph.contains_edge(group[0], group[0]));
    let mut found: Vec<Vec<petgraph::graph::NodeIndex>> =
        circular.map(|group| shortest_way_round(&graph, *group.iter().min().expect("a group has members"))).collect();
    found.sort();
    found.into_iter().map(|cycle| cycle.into_iter().map(|index| graph[index].to_string()).collect()).collect()
}

/// Breadth first from `start` back to it; it lies on a cycle.
fn shortest_way_round(graph: &DiGraph<&str, ()>, start: petgraph::graph::NodeIndex) -> Vec<petgraph::graph::NodeIndex> {
    let mut came_from = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        if graph.contains_edge(at, start) {
            let mut way: Vec<_> = std::iter::successors(Some(at), |node| came_from.get(node).copied()).collect();
            way.reverse();
            return way;
        }
        for next in graph.neighbors(at).filter(|next| *next != start) {
            if let std::collections::hash_map::Entry::Vacant(entry) = came_from.entry(next) {
                entry.insert(at);
                queue.push_back(next);
            }
        }
    }
    unreachable!("the node was in a group whose members reach each other")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(names: &str, edges: &[(&str, &str)]) -> Graph {
        let edges = edges.iter().map(|(from, to)| (from.to_string(), to.to_string()));
        Graph::new(names.split(' ').map(str::to_string), edges)
    }

    fn names(graph: &Graph, nodes: impl IntoIterator<Item = NodeIndex>) -> String {
        nodes.into_iter().map(|node| graph.name(node).to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn order_is_the_recipes_as_far_as_needs_allow() {
        for (given, edges, expected) in [
            ("a b c", vec![], "a b c"),
            ("c b a", vec![("a", "b"), ("b", "c")], "a b c"),
            ("d b a c", vec![("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("c", "d")], "a b c d"),
        ] {
            let graph = graph(given, &edges);
            assert_eq!(names(&graph, graph.order().iter().copied()), expected);
        }
    }

    #[test]
    fn neighbours_and_everything_beyond() {
        let graph = graph("a b c d e", &[("a", "b"), ("b", "c"), ("b", "d"), ("e", "d")]);
        let b = graph.index("b").unwrap();
        assert_eq!(names(&graph, graph.upstream(b)), "a");
        assert_eq!(names(&graph, graph.downstream(b)), "c d");
        assert_eq!(names(&graph, graph.ancestors(graph.index("d").unwrap())), "a b d e");
        assert_eq!(graph.index("x"), None);
    }

    #[test]
    fn cycles_are_found_each_once_and_by_their_shortest_way() {
        let check = |edges: &[(&str, &str)], expected: &[&str]| {
            let found: Vec<String> =
                cycles(["a", "b", "c"].into_iter(), edges).iter().map(|cycle| cycle.join(" ")).collect();
            assert_eq!(found, expected, "{edges:?}");
        };
        check(&[("a", "b"), ("b", "c"), ("a", "c")], &[]);
        check(&[("a", "a")], &["a"]);
        check(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")], &["a b"]);
        check(&[("d", "c"), ("c", "d"), ("b", "a"), ("a", "b")], &["a b", "c d"]);
    }
}
