//! Twenty steps as TRL's SFTTrainer (and peft) makes them: same rows, order and hyperparameters, same losses
//! (`testdata/curves`, made by `scripts/make_training_curves.py`).

use crate::common::{assert_close, folder};
use hone_model::{AdamW, Adapter, Batch, Config, HostWeights, Method, Trainer, TrainerOptions, device};
use serde_json::Value;

struct Curves {
    json: Value,
    config: Config,
    weights: HostWeights,
}

impl Curves {
    fn load() -> Curves {
        let path = folder().with_file_name("curves").join("qwen3.json");
        let json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let dir = folder().join("qwen3/model");
        let config = Config::from_dir(&dir).unwrap();
        let weights = HostWeights::load(&dir, &config).unwrap();
        Curves { json, config, weights }
    }

    fn number(&self, key: &str) -> f64 {
        self.json[key].as_f64().unwrap()
    }

    /// Every row as a segment, labels moved to the token that predicts them.
    fn rows(&self) -> Vec<Batch> {
        let row = |row: &Value| {
            let ids: Vec<u32> = row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let prompt = row["prompt"].as_u64().unwrap() as usize;
            let target = |t: usize| if t + 1 >= prompt && t + 1 < ids.len() { ids[t + 1] as i32 } else { -1 };
            Batch { targets: (0..ids.len()).map(target).collect(), segments: vec![ids.len()], ids: ids.clone() }
        };
        self.json["rows"].as_array().unwrap().iter().map(row).collect()
    }

    /// Losses of all steps.
    fn train(&self, method: Method, adapter: Option<&Adapter>) -> Vec<f64> {
        let (micro, accumulation) = (self.number("micro_batch") as usize, self.number("accumulation") as usize);
        let options = TrainerOptions { method, ..TrainerOptions::full(60 * micro, 60) };
        let open = device::open("cpu", 2).unwrap();
        let mut trainer = Trainer::new(open, &self.config, &self.weights, &options).unwrap();
        if let Some(adapter) = adapter {
            trainer.load_adapter(adapter).unwrap();
        }
        let rows = self.rows();
        let num_steps = rows.len() / (micro * accumulation);
        let step = |(index, rows): (usize, &[Batch])| {
            let trained = rows.iter().flat_map(|row| &row.targets).filter(|&&target| target >= 0).count();
            trainer.zero_grad();
            let mut loss = 0.0;
            for rows in rows.chunks(micro) {
                loss += trainer.accumulate(&packed(rows), 1.0 / trained as f32).unwrap().loss_sum;
            }
            let norm = trainer.grad_norm().unwrap();
            // A line from the peak down to zero right after the last step.
            let lr = self.number("learning_rate") * (1.0 - index as f64 / num_steps as f64);
            let (step, grad_scale) = (index as u64 + 1, (1.0 / (norm + 1e-6)).min(1.0));
            let weight_decay = self.number("weight_decay");
            let update = AdamW { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step, grad_scale };
            trainer.adamw_step(&update).unwrap();
            loss / trained as f64
        };
        rows.chunks(micro * accumulation).enumerate().map(step).collect()
    }

    #[track_caller]
    fn compare(&self, name: &str, losses: &[f64]) {
        let expected: Vec<f64> =
            self.json[name]["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
        assert_eq!((losses.len(), expected.len()), (20, 20));
        for (step, (found, expected)) in losses.iter().zip(expected).enumerate() {
            assert_close(&format!("{name}: loss of step {step}"), *found, expected, 1e-3);
        }
    }
}

fn packed(rows: &[Batch]) -> Batch {
    let mut batch = Batch::default();
    for row in rows {
        batch.ids.extend(&row.ids);
        batch.targets.extend(&row.targets);
        batch.segments.extend(&row.segments);
    }
    batch
}

#[test]
fn full_fine_tuning_has_the_loss_curve_of_trl() {
    let curves = Curves::load();
    curves.compare("full", &curves.train(Method::full(), None));
}

#[test]
fn lora_has_the_loss_curve_of_trl_and_peft() {
    let curves = Curves::load();
    let adapter = Adapter::load(&folder().join("qwen3/adapter"), &curves.config).unwrap();
    let method = Method { lora: Some(adapter.lora.clone()), ..Method::full() };
    curves.compare("lora", &curves.train(method, Some(&adapter)));
}
