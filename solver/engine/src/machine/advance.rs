//! One step of one node: decides from its inputs' state what it asks of them, and whether it loads, runs or waits.

use std::sync::Arc;

use super::node::{Changes, Level, NodeId, Phase, Preparation};
use super::{Action, Machine};
use crate::{CacheMap, EngineError};

impl<V: Clone> Machine<V> {
    pub(super) fn advance(&mut self, id: NodeId) {
        if !self.nodes.contains(id) {
            return;
        }
        let node = &mut self.nodes[id];
        let news = std::mem::take(&mut node.news);
        if node.merged.is_some() {
            return;
        }
        let want = node.want();
        match node.phase {
            Phase::Done(_) | Phase::Failed(_) => self.settle(id),
            Phase::Loading(_) | Phase::Running(_) if want == Level::Value => {}
            Phase::Loading(task) => {
                self.nodes[id].phase = Phase::Matching;
                self.stop(self.nodes[id].vertex, task);
                self.tasks.remove(&task);
                self.matching(id, want);
            }
            Phase::Running(_) => {
                self.give_up_run(id);
                self.matching(id, want);
            }
            Phase::Matching => match news.changes {
                Changes::Inputs(inputs) if node.committed && want == Level::Value => {
                    self.inputs_changed(id, &inputs);
                }
                Changes::Inputs(_) | Changes::All => self.matching(id, want),
            },
        }
        self.review(self.nodes[id].vertex);
    }

    fn matching(&mut self, id: NodeId, want: Level) {
        let node = &mut self.nodes[id];
        if want < node.wanted {
            // Less is wanted: begin the questions to inputs anew. Otherwise they are only ever raised, so that work on an
            // input is not dropped and begun again while keys trickle in.
            node.wanted = want;
            self.unask_all(id);
        }
        self.nodes[id].wanted = want;
        if want == Level::None {
            return;
        }
        let vertex = &self.vertices[self.nodes[id].vertex];
        if let Some(error) = &vertex.failure {
            self.fail(id, error.clone());
            return;
        }
        let Some(map) = vertex.map.done().map(Arc::clone) else {
            for input in 0..vertex.inputs.len() {
                self.ask(id, input, Level::Fast);
            }
            self.fail_with_input(id);
            return;
        };
        if self.probe(id, &map) && want < Level::Value {
            // New keys may be all that a dependent needs: it looks before this node asks its inputs for more.
            self.patient.push(id);
            return;
        }
        self.pursue(id, &map, want);
        self.fail_with_input(id);
    }

    /// Works towards what is wanted, with what is known.
    fn pursue(&mut self, id: NodeId, map: &Arc<CacheMap<V>>, want: Level) {
        let level = self.nodes[id].level;
        if want == Level::Value {
            if let Some((record, from)) = self.best_record(id) {
                self.begin_load(id, record, from);
            } else if level >= Level::Slow {
                self.run_when_ready(id, map);
            } else {
                self.ask_for_keys(id, map, Level::Slow);
            }
        } else if level < want {
            self.ask_for_keys(id, map, want);
        }
        // Where enough is known, inputs go on with what they were asked: dependents are about to say what they make of it.
    }

    /// Asks inputs for what may bring more keys: first what is free, then what costs running them; of that, first the
    /// inputs without which no key can match.
    fn ask_for_keys(&mut self, id: NodeId, map: &CacheMap<V>, goal: Level) {
        let inputs = self.vertices[self.nodes[id].vertex].inputs.clone();
        let inputs: Vec<_> = inputs.into_iter().map(|input| self.root(input)).collect();
        let mut all_fast = true;
        for (at, &input) in inputs.iter().enumerate() {
            if self.nodes[input].key_level() < Level::Fast {
                all_fast = false;
                self.ask(id, at, Level::Fast);
            }
        }
        if goal < Level::Slow {
            return;
        }
        let open: Vec<_> = (0..inputs.len())
            .filter(|&at| self.input_level(id, at, map) < Level::Slow)
            .collect();
        let unmatched = |at: &usize| self.nodes[id].deps[*at].candidates.is_empty();
        let (first, second): (Vec<_>, Vec<_>) = open.into_iter().partition(unmatched);
        let next = match (first.is_empty(), all_fast) {
            (false, _) => first,
            (true, true) => second,
            (true, false) => Vec::new(),
        };
        for at in next {
            if self.nodes[inputs[at]].key_level() >= Level::Slow {
                self.ask(id, at, Level::Value);
                self.hash(id, at);
            } else if all_fast {
                // Not before: another input may yet tell that this node runs anyway.
                self.ask(id, at, Level::Slow);
            }
        }
    }

    /// Raises what is asked of an input.
    pub(super) fn ask(&mut self, id: NodeId, at: usize, level: Level) {
        let before = self.nodes[id].deps[at].ask;
        if level > before {
            self.change_ask(id, at, level);
        }
    }

    pub(super) fn unask_all(&mut self, id: NodeId) {
        self.nodes[id].committed = false;
        for at in 0..self.nodes[id].deps.len() {
            let preparation = &mut self.nodes[id].deps[at].preparation;
            if std::mem::take(preparation) == Preparation::Wanted {
                self.unhash(id, at);
            }
            if self.nodes[id].deps[at].ask != Level::None {
                self.change_ask(id, at, Level::None);
            }
        }
    }

    fn change_ask(&mut self, id: NodeId, at: usize, level: Level) {
        let before = std::mem::replace(&mut self.nodes[id].deps[at].ask, level);
        let input = self.root(self.vertices[self.nodes[id].vertex].inputs[at]);
        let asked = &mut self.nodes[input];
        let want = asked.want();
        asked.asked[before as usize] = asked.asked[before as usize].saturating_sub(1);
        asked.asked[level as usize] += 1;
        if asked.want() != want {
            self.mark(input);
        }
    }

    /// A node fails with an input that it asks something of.
    pub(super) fn fail_with_input(&mut self, id: NodeId) {
        if !matches!(self.nodes[id].phase, Phase::Matching) || self.nodes[id].merged.is_some() {
            return;
        }
        let vertex = &self.vertices[self.nodes[id].vertex];
        let asked = self.nodes[id].deps.iter().zip(&vertex.inputs);
        let mut asked = asked.filter(|(dep, _)| dep.ask > Level::None);
        let failed = asked.find_map(|(_, &input)| match &self.nodes[self.root(input)].phase {
            Phase::Failed(error) => Some(error.clone()),
            Phase::Matching | Phase::Loading(_) | Phase::Running(_) | Phase::Done(_) => None,
        });
        if let Some(error) = failed {
            self.fail(id, error);
        }
    }

    pub(super) fn fail(&mut self, id: NodeId, error: EngineError) {
        if let Phase::Running(Some(key)) = &self.nodes[id].phase {
            self.pending.remove_of(id, key.key);
        }
        self.nodes[id].phase = Phase::Failed(error);
        self.mark_dependents(id);
        self.settle(id);
    }

    /// Answers whoever waits for a node that is done or has failed; it asks nothing any more.
    pub(super) fn settle(&mut self, id: NodeId) {
        self.unask_all(id);
        self.nodes[id].wanted = Level::None;
        let outcome = match &self.nodes[id].phase {
            Phase::Done(value) => Ok(value.clone()),
            Phase::Failed(error) => Err(error.clone()),
            Phase::Matching | Phase::Loading(_) | Phase::Running(_) => return,
        };
        for waiter in std::mem::take(&mut self.nodes[id].waiters) {
            self.waiters.remove(&waiter);
            self.actions.push(Action::Answer(waiter, outcome.clone()));
        }
    }
}
