//! The model that a command uses: a folder, or what a recipe's node gave; and how it is sampled.

use super::show::{failure, find_finished, named_output};
use crate::cli::{ModelArgs, RecipeArgs, SamplingArgs};
use crate::executor::artifacts;
use crate::failure::{Failure, Result};
use crate::workplace::Workplace;
use stages::model::chat::Clock;
use stages::model::complete::{Completer, Wanted};
use stages::model::generate::Sampling;
use stages::stage::Form;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Opens it, with today's date for templates that ask for it.
pub fn open(arguments: &ModelArgs) -> Result<Completer> {
    let place = find(arguments)?;
    let device = super::device::open(&arguments.machine, &arguments.store, |message| eprintln!("warning: {message}"))?;
    Ok(Completer::open(&device, place.path(), today())?)
}

/// What lies before 1970 is a clock that was never set.
fn today() -> Clock {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Clock(i64::try_from(since.as_secs()).unwrap_or_default())
}

/// A model's files, and the folder that goes away with this value where they were taken out of the store.
enum ModelPlace {
    Named(PathBuf),
    Taken(tempfile::TempDir),
}

impl ModelPlace {
    fn path(&self) -> &Path {
        match self {
            ModelPlace::Named(path) => path,
            ModelPlace::Taken(folder) => folder.path(),
        }
    }
}

fn find(arguments: &ModelArgs) -> Result<ModelPlace> {
    let folder = Path::new(&arguments.model);
    let hint = || Some("name a folder with config.json and safetensors, or RECIPE:NODE".to_string());
    if folder.is_dir() {
        if folder.join("config.json").is_file() {
            return Ok(ModelPlace::Named(folder.to_path_buf()));
        }
        return Err(Failure::usage(format!("`{}` holds no model: there is no config.json", folder.display()), hint()));
    }
    let neither = || Failure::usage(format!("`{}` is no model", arguments.model), hint());
    let (recipe, node) = arguments.model.rsplit_once(':').ok_or_else(neither)?;
    let recipe = RecipeArgs { recipe: PathBuf::from(recipe), overrides: arguments.overrides.clone() };
    take_out(&Workplace::open(&recipe, &arguments.store)?, node)
}

/// Places a node's model in a folder on the store's own file system, where links cost nothing.
fn take_out(workplace: &Workplace, node: &str) -> Result<ModelPlace> {
    let reference = workplace.reference(node)?;
    let output = named_output(workplace, &reference)?;
    if output.form != Form::Model {
        return Err(Failure::usage(format!("`{node}` holds rows, not a model"), None));
    }
    let (store, manifest) = find_finished(workplace, &reference.node)?;
    let place = store.layout().temporary();
    let folder = tempfile::tempdir_in(&place).map_err(|error| Failure::io("create a folder in", &place, &error))?;
    artifacts::open(&store, &manifest, &output, folder.path()).map_err(failure)?;
    Ok(ModelPlace::Taken(folder))
}

/// What the flags say, then what the model's maker says, which is told on stderr.
pub fn wanted(arguments: &SamplingArgs, completer: &Completer) -> Wanted {
    let own = completer.folder().carried.sampling();
    let mut told = Vec::new();
    let mut settled = |name: &str, flag: Option<f64>, own: Option<f64>, none: f64| {
        if arguments.greedy {
            return none;
        }
        if let (None, Some(own)) = (flag, own.filter(|own| *own != none)) {
            told.push(format!("{name} {own}"));
        }
        flag.or(own).unwrap_or(none)
    };
    let count = |number: Option<usize>| number.map(|number| number as f64);
    let temperature = settled("temperature", arguments.temperature, own.temperature, 1.0);
    let sampling = Sampling {
        temperature: if arguments.greedy { 0.0 } else { temperature as f32 },
        top_k: settled("top-k", count(arguments.top_k), count(own.top_k), 0.0) as usize,
        top_p: settled("top-p", arguments.top_p, own.top_p, 1.0) as f32,
        min_p: settled("min-p", arguments.min_p, own.min_p, 0.0) as f32,
        tokens_max: arguments.max_tokens,
    };
    if !told.is_empty() {
        eprintln!("sampling as generation_config.json says: {}", told.join(", "));
    }
    if !arguments.greedy && !own.left_out.is_empty() {
        eprintln!("not done, though generation_config.json asks for it: {}", own.left_out.join(", "));
    }
    Wanted { sampling, stop: arguments.stop.clone(), seed: arguments.seed, samples: 1 }
}
