//! What a manifest tells models of the times.

use super::raw::{RawExpression, RawManifest};
use super::read::Reader;
use crate::error::Result;
use crate::families::{Axis, Description};
use crate::heuristics::Formula;
use crate::model::Dtype;
use toml::Spanned;

impl Reader<'_> {
    /// What a model of the times looks at.
    pub(super) fn description(&self, raw: &RawManifest) -> Result<Description> {
        let model = &raw.model;
        let in_model = |raw: &Spanned<RawExpression>| {
            let expanded = self.definitions.expand(&raw.get_ref().text());
            expanded
                .map(|text| text.replace("element_bytes", "dtype_bytes"))
                .map_err(|error| self.error(raw.span().start, error))
        };
        let of_tensors = || {
            let tensors = raw.tensor.iter().map(|tensor| {
                let tensor = tensor.get_ref();
                let extents = tensor.shape.iter().map(in_model).collect::<Result<Vec<_>>>()?;
                let size = tensor
                    .dtype
                    .parse::<Dtype>()
                    .map_or("dtype_bytes".to_owned(), |dtype| dtype.size_bytes().to_string());
                let factors = extents.iter().map(|extent| format!("({extent})")).chain([size]);
                Ok(factors.collect::<Vec<_>>().join(" * "))
            });
            Ok(tensors.collect::<Result<Vec<_>>>()?.join(" + "))
        };
        let dtypes = raw.family.dtypes.get_ref().iter().map(|name| {
            let dtype: Dtype = name.parse().map_err(|error| self.error(raw.family.dtypes.span().start, error))?;
            Ok((name.clone(), dtype.size_bytes() as i64))
        });
        let alone = || self.dims.iter().map(|dim| vec![dim.clone()]).collect();
        Ok(Description {
            dtypes: dtypes.collect::<Result<_>>()?,
            knobs: self.knobs.clone(),
            bytes: raw.family.bytes.as_ref().map_or_else(of_tensors, in_model)?,
            flops: in_model(&raw.family.flops)?,
            rows: model.rows.clone(),
            instances: model.instances.clone(),
            tiles: model.tiles.clone(),
            steps: model.steps.clone(),
            parts: model.parts.clone(),
            step_bytes: model.step_bytes.clone(),
            resident: model.resident.clone(),
            definitions: model.definitions.clone(),
            features: model.features.clone(),
            kin: if model.kin.is_empty() { alone() } else { model.kin.clone() },
            ..Description::default()
        })
    }

    /// What the work is cut along: the tiles, and the steps of each.
    pub(super) fn axes(&self, raw: &RawManifest) -> Result<Vec<Axis>> {
        let axis = |(dim, block): (&String, &String), is_reduced| {
            // Where it is not an expression of ours, as one that names the model's own definitions, a model alone can tell.
            let block = Formula::parse(block, &self.scope()).ok()?;
            let extent = self.formula_at(0, dim);
            Some(extent.map(|extent| Axis { extent, block, is_reduced }))
        };
        let tiles = raw.model.tiles.iter().filter_map(|tile| axis(tile, false));
        let steps = raw.model.steps.iter().filter_map(|step| axis(step, true));
        tiles.chain(steps).collect()
    }
}
