//! The examples at the end of every help page. A test parses each line and runs those that only read; two blanks begin a remark.

macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0    done
  1    a node failed
  2    the recipe or the command line is wrong
  3    the budget is reached
  4    a problem of the cache or of trust
  5    a remote service is unavailable
  70   a bug of decoct
  130  interrupted"
    };
}

pub const ALL: &str = concat!(
    "\
Examples:
  decoct init oncology --domain oncology         a recipe of your own, to begin with
  decoct run pipelines/medical.yaml --limit 200  the bundled one, a first look in seconds

",
    exit_codes!()
);

pub const RUN: &str = concat!(
    "\
Examples:
  decoct run pipelines/medical.yaml --limit 200
  decoct run pipelines/medical.yaml --until stories --force chains
  decoct run pipelines/medical.yaml --profile openai --set nodes.exam.path=questions.jsonl --limit 20 --budget-usd 1

",
    exit_codes!()
);

pub const PLAN: &str = "\
Examples:
  decoct plan pipelines/medical.yaml
  decoct plan pipelines/ablation.yaml --until student/rounds=3  one variant of a matrix, and what it needs";

pub const EXPLAIN: &str = "\
Example:
  decoct explain pipelines/medical.yaml stories";

pub const TRACE: &str = "\
Examples:
  decoct trace pipelines/medical.yaml stories 0               the first row of `stories`
  decoct trace pipelines/medical.yaml solved 3fa9c2           the row whose id begins so, also one that was dropped on the way
  decoct trace pipelines/medical.yaml chains@90bd12 0 --full  an earlier generation, whole texts";

pub const DIFF: &str = "\
Examples:
  decoct diff pipelines/medical.yaml:stories                  the version before, and this one
  decoct diff a.yaml:chains b.yaml:chains                     of two recipes
  decoct diff medical.yaml:stories@3fa9c2 medical.yaml:stories
  decoct diff last~1 last                                     the last two runs, node by node";

pub const RUNS: &str = "\
Example:
  decoct runs";

pub const CHECK: &str = "\
Example:
  decoct check pipelines/medical.yaml";

pub const DOCTOR: &str = "\
With --model eight small calls are made; no row of the recipe is sent, and no key is shown.
Examples:
  decoct doctor
  decoct doctor pipelines/medical.yaml --profile openai --model teacher";

pub const SHOW: &str = "\
Examples:
  decoct show pipelines/medical.yaml score                      the tables of a comparison
  decoct show pipelines/medical.yaml hard.dropped --row 0       what did not go on, and why
  decoct show pipelines/medical.yaml stories -o stories.parquet
  decoct show pipelines/medical.yaml graduate -o models/ours    the model, for vLLM and others
  decoct show pipelines/medical.yaml student --tensorboard curves";

pub const GENERATE: &str = "\
Where no flag says otherwise, the sampling defaults of the model's generation_config.json count, and are told.
Examples:
  decoct generate pipelines/medical.yaml:graduate --prompts prompts.jsonl --greedy
  decoct generate models/ours --prompts prompts.jsonl --samples 8 --top-p 0.9 --stop Question: --logprobs";

pub const SCORE: &str = "\
Given what `generate` wrote, it scores those very tokens.
Example:
  decoct score pipelines/medical.yaml:graduate --input answers.jsonl";

pub const CHAT: &str = "\
In a terminal ctrl-C stops an answer; `/reset` begins anew, `/exit` or ctrl-D ends. Otherwise stdin holds a message a line.
Example:
  decoct chat pipelines/medical.yaml:graduate --greedy";

pub const CACHE: &str = "\
Example:
  decoct cache stat";

pub const CACHE_STAT: &str = CACHE;

pub const CACHE_VERIFY: &str = "\
Example:
  decoct cache verify";

pub const CACHE_SWEEP: &str = "\
Kept is what a recipe given here needs, what a run of the grace period used or made, what is pinned, and replies.
Examples:
  decoct cache sweep                                   say what would go
  decoct cache sweep pipelines/medical.yaml --yes      keep that recipe's work, remove the rest that is old";

pub const CACHE_PIN: &str = "\
Examples:
  decoct cache pin pipelines/medical.yaml --name paper
  decoct cache pin --list";

pub const CACHE_PUSH: &str = "\
Example:
  decoct cache push pipelines/medical.yaml --set cache.remote=s3://our-bucket/decoct";

pub const CACHE_PULL: &str = "\
Example:
  decoct cache pull pipelines/medical.yaml --until student";

pub const TRUST: &str = "\
Example:
  anna$ decoct cache trust init
  decoct1:8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c
  ben$  decoct cache trust add anna decoct1:8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";

pub const TRUST_LIST: &str = "\
Example:
  decoct cache trust list";

pub const TRUST_REMOVE: &str = "\
Example:
  decoct cache trust remove anna";

pub const INIT: &str = "\
Nothing that is there is ever written over.
Examples:
  decoct init --domain law                in this folder: law.yaml, law/questions.jsonl, law/prompts
  decoct init oncology --domain oncology";

pub const SCHEMA: &str = "\
Recipes name it in their first line: # yaml-language-server: $schema=./recipe.schema.json
Example:
  decoct schema > recipe.schema.json";

pub const COMPLETIONS: &str = "\
Examples:
  decoct completions bash > ~/.local/share/bash-completion/completions/decoct
  decoct completions zsh > ~/.zfunc/_decoct
  decoct completions fish > ~/.config/fish/completions/decoct.fish";

pub const MAN: &str = "\
Examples:
  decoct man | man -l -                 read it here
  decoct man ~/.local/share/man/man1    write a page for each command";
