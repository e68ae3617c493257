//! softmax(QKᵀ/√d)V: one task a block of q positions of one head. Keys and values stream past it in blocks of kv
//! positions, with the softmax kept up to date as they do, so that the scores are never stored whole.

use super::panel::{LANES, Panel, ROWS, Sums};
use super::row_softmax::Running;
use super::{Float, blocks};
use crate::families::HostTensor;
use crate::model::{Config, Problem};
use half::bf16;
use rayon::prelude::*;

/// `None` where the config or the tensors are not this family's.
pub(super) fn run(problem: &Problem, config: &Config, inputs: &[HostTensor], output: &mut HostTensor) -> Option<()> {
    let [_, _, q_seq, kv_seq, head_dim] = problem.shape.first();
    let ([HostTensor::Bf16(q), HostTensor::Bf16(k), HostTensor::Bf16(v)], HostTensor::Bf16(o)) = (inputs, output)
    else {
        return None;
    };
    let [1, block_q, block_kv] = blocks(config)? else { return None };
    let head_dim = head_dim as usize;
    let (q_numel, kv_numel) = (q_seq as usize * head_dim, kv_seq as usize * head_dim);
    let heads = o.chunks_mut(q_numel).zip(q.chunks(q_numel)).zip(k.chunks(kv_numel).zip(v.chunks(kv_numel)));
    let block_numel = block_q.saturating_mul(head_dim);
    let tasks: Vec<_> = heads
        .flat_map(|((o, q), (k, v))| {
            let positions = o.chunks_mut(block_numel).zip(q.chunks(block_numel));
            positions.map(move |(o, q)| (Task { q, k, v, head_dim, block_kv }, o))
        })
        .collect();
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(task, o)| if task.q_positions() < ROWS { task.compute::<1>(o) } else { task.compute::<ROWS>(o) });
    Some(())
}

/// What one task reads: its q positions and the keys and values of their head.
struct Task<'a> {
    q: &'a [bf16],
    k: &'a [bf16],
    v: &'a [bf16],
    head_dim: usize,
    block_kv: usize,
}

impl Task<'_> {
    fn q_positions(&self) -> usize {
        self.q.len() / self.head_dim
    }

    fn compute<const R: usize>(&self, o: &mut [bf16]) {
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
        for (k, v) in self.k.chunks(block_numel).zip(self.v.chunks(block_numel)) {
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
                sums.scale_row(index, softmax.absorb(&mut row));
                weights.pack_along(index, row.iter().copied());
            }
            sums.add_product(&weights, &values);
        }
        for (index, (row, softmax)) in o.chunks_mut(head_dim).zip(&softmax).enumerate() {
            for (value, sum) in row.iter_mut().zip(sums.row(index)) {
                *value = bf16::from_f32(sum / softmax.sum);
            }
        }
    }
}
