//! Which node may start when: nodes whose inputs are ready run side by side, one at a time on the device, and a failure stops only
//! what depends on it. Knows nothing of what a node is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError, mpsc};

/// Does the work that the schedule orders. Nodes are indices.
pub trait Worker: Sync {
    /// Asked once all inputs of a node are there, on the scheduling thread: is there anything to do?
    fn look(&self, node: usize) -> Look;
    /// Does it, on one of as many threads as run at a time.
    fn run(&self, node: usize) -> Ending;
    /// Whether nothing new may start.
    fn is_stopping(&self) -> bool;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Its outputs exist.
    Finished,
    Run {
        needs_device: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Finished,
    Failed,
    /// The output of this earlier node turned out to be damaged: make that again, then try once more.
    Rebuild(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Finished,
    Failed,
    /// Something before it failed (that node), or the run was stopped.
    Skipped(Option<usize>),
}

/// How often one node's output may be made again for a consumer that found it damaged: a disk that damages it each time is broken.
const REBUILDS_MAX: u32 = 2;

/// Runs all nodes; `upstream[n]` lists what `n` reads. At most `jobs` run at a time.
pub fn run(upstream: &[Vec<usize>], jobs: usize, worker: &impl Worker) -> Vec<Fate> {
    let (sender, endings) = mpsc::channel();
    let (starts, started) = mpsc::channel();
    let started = Mutex::new(started);
    let mut desk = Desk::new(upstream, jobs.max(1));
    std::thread::scope(|scope| {
        let hand = || {
            let next = || started.lock().unwrap_or_else(PoisonError::into_inner).recv();
            while let Ok(node) = next() {
                if sender.send((node, worker.run(node))).is_err() {
                    break;
                }
            }
        };
        let mut hands = 0;
        loop {
            while let Some(node) = desk.next(worker) {
                if hands < desk.running {
                    hands += 1;
                    scope.spawn(hand);
                }
                starts.send(node).expect("this function holds the receiver");
            }
            if desk.running == 0 {
                drop(starts);
                break;
            }
            let (node, ending) = endings.recv().expect("this function holds a sender");
            desk.end(node, ending);
        }
    });
    desk.states.into_iter().map(State::fate).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Looked at and found to need the device, which was taken.
    NeedsDevice,
    Running {
        on_device: bool,
    },
    Over(Fate),
}

impl State {
    fn fate(self) -> Fate {
        match self {
            State::Over(fate) => fate,
            other => unreachable!("the schedule ended with a node that is {other:?}"),
        }
    }
}

/// The state of all nodes. Each step costs what it touches, so that ten thousand nodes with nothing to do take no time.
struct Desk<'a> {
    upstream: &'a [Vec<usize>],
    downstream: Vec<Vec<usize>>,
    states: Vec<State>,
    /// Of a node that waits: how many of its inputs are not over.
    missing: Vec<usize>,
    /// Nodes that wait for nothing but a place.
    ready: BTreeSet<usize>,
    /// Nodes that wait for the device.
    queue: BTreeSet<usize>,
    /// How often which node (second) was made again for which reader (first).
    rebuilds: BTreeMap<(usize, usize), u32>,
    jobs: usize,
    running: usize,
    device_is_taken: bool,
}

impl<'a> Desk<'a> {
    fn new(upstream: &'a [Vec<usize>], jobs: usize) -> Desk<'a> {
        let mut desk = Desk {
            upstream,
            downstream: reversed(upstream),
            states: vec![State::Waiting; upstream.len()],
            missing: vec![0; upstream.len()],
            ready: BTreeSet::new(),
            queue: BTreeSet::new(),
            rebuilds: BTreeMap::new(),
            jobs,
            running: 0,
            device_is_taken: false,
        };
        (0..upstream.len()).for_each(|node| desk.wait(node));
        desk
    }

    /// The next node to start, after settling all that need no work. `None` when one must end first.
    fn next(&mut self, worker: &impl Worker) -> Option<usize> {
        loop {
            let node = self.first_open()?;
            if let Some(fate) = self.cannot_run(node, worker) {
                self.settle(node, fate);
            } else if self.states[node] == State::NeedsDevice {
                return Some(self.start(node, true));
            } else {
                match worker.look(node) {
                    Look::Finished => self.settle(node, Fate::Finished),
                    Look::Run { needs_device: true } if self.device_is_taken => self.line_up(node),
                    Look::Run { needs_device } => return Some(self.start(node, needs_device)),
                }
            }
        }
    }

    fn first_open(&self) -> Option<usize> {
        if self.running >= self.jobs {
            return None;
        }
        let for_device = self.queue.first().filter(|_| !self.device_is_taken);
        self.ready.first().into_iter().chain(for_device).min().copied()
    }

    fn cannot_run(&self, node: usize, worker: &impl Worker) -> Option<Fate> {
        if worker.is_stopping() {
            return Some(Fate::Skipped(None));
        }
        self.upstream[node].iter().find_map(|&from| match self.states[from] {
            State::Over(Fate::Failed) => Some(Fate::Skipped(Some(from))),
            State::Over(skipped @ Fate::Skipped(_)) => Some(skipped),
            _ => None,
        })
    }

    fn start(&mut self, node: usize, on_device: bool) -> usize {
        self.leave(node, State::Running { on_device });
        self.running += 1;
        self.device_is_taken |= on_device;
        node
    }

    fn end(&mut self, node: usize, ending: Ending) {
        self.running -= 1;
        if self.states[node] == (State::Running { on_device: true }) {
            self.device_is_taken = false;
        }
        match ending {
            Ending::Finished => self.settle(node, Fate::Finished),
            Ending::Failed => self.settle(node, Fate::Failed),
            Ending::Rebuild(from) if self.reopen(from, node) => self.wait(node),
            Ending::Rebuild(_) => self.settle(node, Fate::Failed),
        }
    }

    fn line_up(&mut self, node: usize) {
        self.leave(node, State::NeedsDevice);
        self.queue.insert(node);
    }

    fn settle(&mut self, node: usize, fate: Fate) {
        self.leave(node, State::Over(fate));
        for index in 0..self.downstream[node].len() {
            let next = self.downstream[node][index];
            if self.states[next] == State::Waiting {
                self.missing[next] -= 1;
                if self.missing[next] == 0 {
                    self.ready.insert(next);
                }
            }
        }
    }

    /// Makes `from` run again for a reader; whether it may.
    fn reopen(&mut self, from: usize, reader: usize) -> bool {
        let rebuilds = self.rebuilds.entry((reader, from)).or_default();
        *rebuilds += 1;
        if *rebuilds > REBUILDS_MAX {
            return false;
        }
        // Else another reader has asked before, or it has failed meanwhile.
        if self.states[from] != State::Over(Fate::Finished) {
            return true;
        }
        self.wait(from);
        for index in 0..self.downstream[from].len() {
            let next = self.downstream[from][index];
            if self.states[next] == State::Waiting {
                self.missing[next] += 1;
                self.ready.remove(&next);
            }
        }
        true
    }

    fn wait(&mut self, node: usize) {
        self.leave(node, State::Waiting);
        let is_over = |from: &&usize| matches!(self.states[**from], State::Over(_));
        self.missing[node] = self.upstream[node].len() - self.upstream[node].iter().filter(is_over).count();
        if self.missing[node] == 0 {
            self.ready.insert(node);
        }
    }

    fn leave(&mut self, node: usize, state: State) {
        self.ready.remove(&node);
        self.queue.remove(&node);
        self.states[node] = state;
    }
}

fn reversed(upstream: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut downstream = vec![Vec::new(); upstream.len()];
    for (node, needs) in upstream.iter().enumerate() {
        needs.iter().for_each(|&from| downstream[from].push(node));
    }
    downstream
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    /// Node `n` does `plan[n]`; what happened is written down in order.
    struct Script {
        looks: Vec<Look>,
        endings: Vec<Mutex<Vec<Ending>>>,
        log: Mutex<Vec<usize>>,
        at_once: AtomicUsize,
        most_at_once: AtomicUsize,
        stop_after: usize,
    }

    const RUN: Look = Look::Run { needs_device: false };
    const DEVICE: Look = Look::Run { needs_device: true };

    impl Script {
        fn new(nodes: &[(Look, &[Ending])]) -> Script {
            Script {
                looks: nodes.iter().map(|node| node.0).collect(),
                endings: nodes.iter().map(|node| Mutex::new(node.1.to_vec())).collect(),
                log: Mutex::default(),
                at_once: AtomicUsize::new(0),
                most_at_once: AtomicUsize::new(0),
                stop_after: usize::MAX,
            }
        }
    }

    impl Worker for Script {
        fn look(&self, node: usize) -> Look {
            self.looks[node]
        }
        fn run(&self, node: usize) -> Ending {
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            self.log.lock().unwrap().push(node);
            let mut endings = self.endings[node].lock().unwrap();
            if endings.len() > 1 { endings.remove(0) } else { endings[0] }
        }
        fn is_stopping(&self) -> bool {
            self.log.lock().unwrap().len() >= self.stop_after
        }
    }

    const GOOD: &[Ending] = &[Ending::Finished];
    const BAD: &[Ending] = &[Ending::Failed];

    #[test]
    fn a_failure_stops_only_what_depends_on_it() {
        // 0 → 1 → 3, 0 → 2 → 4
        let script = Script::new(&[(RUN, GOOD), (RUN, BAD), (RUN, GOOD), (RUN, GOOD), (RUN, GOOD)]);
        let fates = run(&[vec![], vec![0], vec![0], vec![1], vec![2]], 4, &script);
        let skipped = Fate::Skipped(Some(1));
        assert_eq!(fates, [Fate::Finished, Fate::Failed, Fate::Finished, skipped, Fate::Finished]);
    }

    #[test]
    fn ready_nodes_run_side_by_side_up_to_the_limit() {
        for (jobs, expected) in [(1, 1), (2, 2), (9, 3)] {
            let script = Script::new(&[(RUN, GOOD), (RUN, GOOD), (RUN, GOOD)]);
            run(&[vec![], vec![], vec![]], jobs, &script);
            assert_eq!(script.most_at_once.into_inner(), expected, "{jobs} jobs");
        }
    }

    #[test]
    fn the_device_is_lent_to_one_at_a_time() {
        let script = Script::new(&[(DEVICE, GOOD), (DEVICE, BAD), (DEVICE, GOOD)]);
        let fates = run(&[vec![], vec![], vec![]], 9, &script);
        assert_eq!(script.most_at_once.into_inner(), 1);
        assert_eq!(fates, [Fate::Finished, Fate::Failed, Fate::Finished]);
    }

    #[test]
    fn what_is_finished_is_not_run_and_lets_others_start() {
        let script = Script::new(&[(Look::Finished, GOOD), (RUN, GOOD)]);
        assert_eq!(run(&[vec![], vec![0]], 1, &script), [Fate::Finished; 2]);
        assert_eq!(script.log.into_inner().unwrap(), [1]);
    }

    #[test]
    fn a_damaged_input_is_made_again_but_not_for_ever() {
        let rebuild = Ending::Rebuild(0);
        let once = Script::new(&[(RUN, GOOD), (RUN, &[rebuild, Ending::Finished])]);
        assert_eq!(run(&[vec![], vec![0]], 2, &once), [Fate::Finished; 2]);
        assert_eq!(once.log.into_inner().unwrap(), [0, 1, 0, 1]);
        let reader: (Look, &[Ending]) = (RUN, &[rebuild, Ending::Finished]);
        let many = Script::new(&[(RUN, GOOD), reader, reader, reader, reader]);
        assert_eq!(run(&[vec![], vec![0], vec![0], vec![0], vec![0]], 4, &many), [Fate::Finished; 5]);
        let always = Script::new(&[(RUN, GOOD), (RUN, &[rebuild])]);
        assert_eq!(run(&[vec![], vec![0]], 2, &always), [Fate::Finished, Fate::Failed]);
    }

    #[test]
    fn stopping_finishes_what_runs_and_starts_nothing() {
        let mut script = Script::new(&[(RUN, GOOD), (RUN, GOOD), (RUN, GOOD)]);
        script.stop_after = 1;
        let fates = run(&[vec![], vec![0], vec![1]], 1, &script);
        assert_eq!(fates, [Fate::Finished, Fate::Skipped(None), Fate::Skipped(None)]);
    }

    /// A node of a random graph: what it needs, and what becomes of it.
    #[derive(Debug, Clone)]
    struct Planned {
        upstream: Vec<usize>,
        fails: bool,
        on_device: bool,
        /// Inputs that it finds damaged, one after another.
        damaged: Vec<usize>,
    }

    /// Up to 200 nodes, each needing up to four earlier ones.
    fn graphs() -> impl Strategy<Value = Vec<Planned>> {
        let node = (
            prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            prop::bool::weighted(0.06),
            prop::bool::weighted(0.2),
            prop::collection::vec(any::<prop::sample::Index>(), 0..2),
        );
        prop::collection::vec(node, 1..200).prop_map(|nodes| {
            let planned = nodes.into_iter().enumerate().map(|(place, (needs, fails, on_device, damaged))| {
                let mut upstream: Vec<usize> =
                    needs.iter().filter(|_| place > 0).map(|need| need.index(place)).collect();
                upstream.sort();
                upstream.dedup();
                let damaged = damaged.iter().filter(|_| !upstream.is_empty());
                let damaged = damaged.map(|one| upstream[one.index(upstream.len())]).collect();
                Planned { upstream, fails, on_device, damaged }
            });
            planned.collect()
        })
    }

    /// What it must come to: one node after another, nothing damaged, nothing interrupted.
    fn sequentially(nodes: &[Planned]) -> Vec<Fate> {
        let mut fates: Vec<Fate> = Vec::new();
        for node in nodes {
            let stopped = node.upstream.iter().find_map(|&from| match fates[from] {
                Fate::Finished => None,
                Fate::Failed => Some(Fate::Skipped(Some(from))),
                skipped => Some(skipped),
            });
            fates.push(stopped.unwrap_or(if node.fails { Fate::Failed } else { Fate::Finished }));
        }
        fates
    }

    /// Runs the nodes of a graph; what is done stays done from one run to the next.
    struct Site<'a> {
        nodes: &'a [Planned],
        done: Vec<AtomicBool>,
        damaged: Vec<Mutex<Vec<usize>>>,
        on_device: AtomicUsize,
        runs: AtomicUsize,
        stop_after: AtomicUsize,
    }

    impl Worker for Site<'_> {
        fn look(&self, node: usize) -> Look {
            match self.done[node].load(Ordering::SeqCst) {
                true => Look::Finished,
                false => Look::Run { needs_device: self.nodes[node].on_device },
            }
        }

        fn run(&self, node: usize) -> Ending {
            let planned = &self.nodes[node];
            assert!(
                planned.upstream.iter().all(|&from| self.done[from].load(Ordering::SeqCst)),
                "its inputs are there"
            );
            if planned.on_device {
                assert_eq!(self.on_device.fetch_add(1, Ordering::SeqCst), 0, "the device is lent once");
                self.on_device.fetch_sub(1, Ordering::SeqCst);
            }
            self.runs.fetch_add(1, Ordering::SeqCst);
            if let Some(from) = self.damaged[node].lock().unwrap().pop() {
                return Ending::Rebuild(from);
            }
            self.done[node].store(!planned.fails, Ordering::SeqCst);
            if planned.fails { Ending::Failed } else { Ending::Finished }
        }

        fn is_stopping(&self) -> bool {
            self.runs.load(Ordering::SeqCst) >= self.stop_after.load(Ordering::SeqCst)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Interrupted again and again, with failures on the way, a graph ends as if it had been run one node after another.
        #[test]
        fn any_graph_ends_as_a_sequential_run_would(nodes in graphs(), jobs in 1..9usize, stop_every in 1..60usize) {
            let upstream: Vec<Vec<usize>> = nodes.iter().map(|node| node.upstream.clone()).collect();
            let site = Site {
                nodes: &nodes,
                done: nodes.iter().map(|_| AtomicBool::new(false)).collect(),
                damaged: nodes.iter().map(|_| Mutex::default()).collect(),
                on_device: AtomicUsize::new(0),
                runs: AtomicUsize::new(0),
                stop_after: AtomicUsize::new(stop_every),
            };
            let mut fates = run(&upstream, jobs, &site);
            // What failed is tried again each time, so each run is allowed a little more than the one before.
            for more in (1..).map(|times| times * stop_every).take_while(|more| *more < 300 * 60) {
                if !fates.contains(&Fate::Skipped(None)) {
                    break;
                }
                site.stop_after.store(site.runs.load(Ordering::SeqCst) + more, Ordering::SeqCst);
                fates = run(&upstream, jobs, &site);
            }
            prop_assert_eq!(fates, sequentially(&nodes));
        }

        /// Damage costs another run of what was damaged, and never lets a node start without its inputs.
        #[test]
        fn any_graph_with_damaged_inputs_comes_to_an_end(nodes in graphs(), jobs in 1..9usize) {
            let upstream: Vec<Vec<usize>> = nodes.iter().map(|node| node.upstream.clone()).collect();
            let site = Site {
                nodes: &nodes,
                done: nodes.iter().map(|_| AtomicBool::new(false)).collect(),
                damaged: nodes.iter().map(|node| Mutex::new(node.damaged.clone())).collect(),
                on_device: AtomicUsize::new(0),
                runs: AtomicUsize::new(0),
                stop_after: AtomicUsize::new(usize::MAX),
            };
            for (node, fate) in run(&upstream, jobs, &site).into_iter().enumerate() {
                let inputs_are_done = upstream[node].iter().all(|&from| site.done[from].load(Ordering::SeqCst));
                prop_assert!(fate != Fate::Finished || inputs_are_done);
                prop_assert!(!matches!(fate, Fate::Skipped(None)));
            }
        }
    }
}
