//! Which node may start when: nodes whose inputs are ready run side by side, one at a time on the device, and a failure stops only
//! what depends on it. Knows nothing of what a node is.

use std::sync::mpsc;

/// Does the work that the schedule orders. Nodes are indices.
pub trait Worker: Sync {
    /// Asked once all inputs of a node are there, on the scheduling thread: is there anything to do?
    fn look(&self, node: usize) -> Look;
    /// Does it, on a thread of its own.
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
    let mut desk = Desk::new(upstream, jobs.max(1));
    std::thread::scope(|scope| {
        loop {
            while let Some(node) = desk.next(worker) {
                let sender = sender.clone();
                scope.spawn(move || sender.send((node, worker.run(node))));
            }
            if desk.running == 0 {
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

struct Desk<'a> {
    upstream: &'a [Vec<usize>],
    states: Vec<State>,
    rebuilds: Vec<u32>,
    jobs: usize,
    running: usize,
    device_is_taken: bool,
}

impl<'a> Desk<'a> {
    fn new(upstream: &'a [Vec<usize>], jobs: usize) -> Desk<'a> {
        let states = vec![State::Waiting; upstream.len()];
        Desk { upstream, states, rebuilds: vec![0; upstream.len()], jobs, running: 0, device_is_taken: false }
    }

    /// The next node to start, after settling all that need no work. `None` when one must end first.
    fn next(&mut self, worker: &impl Worker) -> Option<usize> {
        loop {
            let node = self.first_open()?;
            if let Some(fate) = self.cannot_run(node, worker) {
                self.states[node] = State::Over(fate);
            } else if self.states[node] == State::NeedsDevice {
                return Some(self.start(node, true));
            } else {
                match worker.look(node) {
                    Look::Finished => self.states[node] = State::Over(Fate::Finished),
                    Look::Run { needs_device: true } if self.device_is_taken => self.states[node] = State::NeedsDevice,
                    Look::Run { needs_device } => return Some(self.start(node, needs_device)),
                }
            }
        }
    }

    fn first_open(&self) -> Option<usize> {
        (0..self.states.len()).find(|&node| match self.states[node] {
            State::Waiting => self.running < self.jobs && self.inputs_are_over(node),
            State::NeedsDevice => self.running < self.jobs && !self.device_is_taken,
            _ => false,
        })
    }

    fn inputs_are_over(&self, node: usize) -> bool {
        self.upstream[node].iter().all(|&from| matches!(self.states[from], State::Over(_)))
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
        self.states[node] = State::Running { on_device };
        self.running += 1;
        self.device_is_taken |= on_device;
        node
    }

    fn end(&mut self, node: usize, ending: Ending) {
        self.running -= 1;
        if self.states[node] == (State::Running { on_device: true }) {
            self.device_is_taken = false;
        }
        self.states[node] = match ending {
            Ending::Finished => State::Over(Fate::Finished),
            Ending::Failed => State::Over(Fate::Failed),
            Ending::Rebuild(from) => self.rebuild(from),
        };
    }

    /// Opens `from` again; the state of the node that asked.
    fn rebuild(&mut self, from: usize) -> State {
        self.rebuilds[from] += 1;
        if self.rebuilds[from] > REBUILDS_MAX {
            return State::Over(Fate::Failed);
        }
        if self.states[from] == State::Over(Fate::Finished) {
            self.states[from] = State::Waiting;
        }
        State::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
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
}
