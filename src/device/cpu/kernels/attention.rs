//! softmax(QKᵀ/√d)V: one task a block of q positions of one head. The keys and values that any of them sees stream past it in
//! blocks of kv positions, with the softmax kept up to date as they do, so that the scores are never stored whole.

use super::panel::{LANES, Panel, ROWS, Sums};
use super::row_softmax::Running;
use super::{Float, blocks};
use crate::families::HostTensor;
use crate::model::{Config, Problem};
use rayon::prelude::*;
use std::ops::Range;

/// `None` where the config or the tensors are not this family's.
pub(super) fn run(problem: &Problem, config: &Config, inputs: &[HostTensor], output: &mut HostTensor) -> Option<()> {
    match (inputs, output) {
        ([HostTensor::Bf16(q), HostTensor::Bf16(k), HostTensor::Bf16(v)], HostTensor::Bf16(o)) => {
            attend(problem, config, [q, k, v], o)
        }
        ([HostTensor::F16(q), HostTensor::F16(k), HostTensor::F16(v)], HostTensor::F16(o)) => {
            attend(problem, config, [q, k, v], o)
        }
        _ => None,
    }
}

fn attend<T: Float>(problem: &Problem, config: &Config, [q, k, v]: [&[T]; 3], o: &mut [T]) -> Option<()> {
    let [_, heads, q_seq, kv_seq, head_dim, kv_heads, causal, window] = problem.shape.first();
    let [1, block_q, block_kv] = blocks(config)? else { return None };
    let head_dim = head_dim as usize;
    let (q_numel, kv_numel) = (q_seq as usize * head_dim, kv_seq as usize * head_dim);
    let sharing = (heads / kv_heads.max(1)).max(1) as usize;
    let kv = k.chunks(kv_numel).zip(v.chunks(kv_numel)).flat_map(|kv| std::iter::repeat_n(kv, sharing));
    let heads = o.chunks_mut(q_numel).zip(q.chunks(q_numel)).zip(kv);
    let block_numel = block_q.saturating_mul(head_dim);
    let mask = (causal > 0).then(|| Mask {
        first_ends_at: kv_seq as i64 - q_seq as i64 + 1,
        window: if window > 0 { window as i64 } else { i64::MAX },
    });
    let tasks: Vec<_> = heads
        .flat_map(|((o, q), (k, v))| {
            let positions = (0i64..).step_by(block_q).zip(o.chunks_mut(block_numel).zip(q.chunks(block_numel)));
            positions.map(move |(first, (o, q))| {
                (Task { q, k, v, head_dim, block_kv, mask: mask.map(|mask| mask.from(first)) }, o)
            })
        })
        .collect();
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(task, o)| if task.q_positions() < ROWS { task.compute::<1>(o) } else { task.compute::<ROWS>(o) });
    Some(())
}

/// Which kv positions a causal task's q positions see: each one more than the last, and so many of them at most.
#[derive(Clone, Copy)]
struct Mask {
    /// One past the last position that the first one sees; below 1 where it sees none.
    first_ends_at: i64,
    window: i64,
}

impl Mask {
    /// The same of a task that begins at a later position.
    fn from(self, first: i64) -> Self {
        Self { first_ends_at: self.first_ends_at + first, ..self }
    }

    /// What the position at that place sees.
    fn seen_by(self, index: usize) -> Range<i64> {
        let end = self.first_ends_at + index as i64;
        end.saturating_sub(self.window)..end
    }
}

/// What one task reads: its q positions and the keys and values of their head.
struct Task<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    head_dim: usize,
    block_kv: usize,
    mask: Option<Mask>,
}

impl<T: Float> Task<'_, T> {
    /// The kv positions that any of its q positions sees.
    fn seen(&self) -> Range<usize> {
        let all = self.k.len() / self.head_dim;
        let Some(mask) = self.mask else { return 0..all };
        let within = |position: i64| usize::try_from(position).unwrap_or(0).min(all);
        let end = within(mask.seen_by(self.q_positions().saturating_sub(1)).end);
        within(mask.seen_by(0).start).min(end)..end
    }

    fn q_positions(&self) -> usize {
        self.q.len() / self.head_dim
    }

    fn compute<const R: usize>(&self, o: &mut [T]) {
        let (height, head_dim) = (self.q_positions(), self.head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut queries = Panel::<R>::default();
        queries.reset(height, head_dim);
        for (index, row) in self.q.chunks(head_dim).enumerate() {
            queries.pack_along(index, row.iter().map(|value| value.load() * scale));
        }
        let (mut keys, mut values) = (Panel::<LANES>::default(), Panel::<LANES>::default());
        let mut weights = Panel::<R>::default();
        let mut softmax = vec![Running::default(); height];
        let mut sums = Sums::<R>::zeros(height, head_dim);
        let mut row = Vec::new();

        let block_numel = self.block_kv.saturating_mul(head_dim);
        let seen = self.seen();
        let blocks = (seen.start as i64..).step_by(self.block_kv);
        let seen = seen.start * head_dim..seen.end * head_dim;
        let (k, v) = (&self.k[seen.clone()], &self.v[seen]);
        for (first, (k, v)) in blocks.zip(k.chunks(block_numel).zip(v.chunks(block_numel))) {
            let width = k.len() / head_dim;
            keys.reset(width, head_dim);
            values.reset(head_dim, width);
            for (index, (k, v)) in k.chunks(head_dim).zip(v.chunks(head_dim)).enumerate() {
                keys.pack_along(index, k.iter().map(|value| value.load()));
                values.pack_across(index, v, Float::load);
            }
            let mut scores = Sums::<R>::zeros(height, width);
            scores.add_product(&queries, &keys);

            weights.reset(height, width);
            for (index, softmax) in softmax.iter_mut().enumerate() {
                row.clear();
                row.extend(scores.row(index).take(width));
                if let Some(mask) = self.mask {
                    let seen = mask.seen_by(index);
                    let hidden = row.iter_mut().zip(first..).filter(|(_, position)| !seen.contains(position));
                    hidden.for_each(|(score, _)| *score = f32::NEG_INFINITY);
                }
                sums.scale_row(index, softmax.absorb(&mut row));
                weights.pack_along(index, row.iter().copied());
            }
            sums.add_product(&weights, &values);
        }
        for (index, (row, softmax)) in o.chunks_mut(head_dim).zip(&softmax).enumerate() {
            for (value, sum) in row.iter_mut().zip(sums.row(index)) {
                // A position that sees none gives zeros.
                *value = T::store(if softmax.sum > 0.0 { sum / softmax.sum } else { 0.0 });
            }
        }
    }
}
