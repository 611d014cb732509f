//! Every kind of mistake that a recipe can have: its code and what it means. `decoct check --codes` prints this table.

/// Code and meaning, by subject. A code never changes its meaning; new ones may come.
#[rustfmt::skip]
pub const CODES: &[(&str, &str)] = &[
    // The file.
    ("missing-file",        "A recipe, data file, prompt or model that is named is not there."),
    ("not-a-file",          "A folder stands where a file is needed."),
    ("not-a-folder",        "A file stands where a folder is needed."),
    ("unreadable-file",     "A file is there but cannot be read."),
    ("not-text",            "A file is not UTF-8 text."),
    ("empty-file",          "A file holds nothing."),
    ("too-large",           "The recipe passes a limit that protects the machine from broken or hostile files."),
    ("not-yaml",            "The recipe, or the value of a `--set`, is not YAML."),
    ("unknown-anchor",      "An alias (`*name`) names an anchor that does not stand above it."),
    ("duplicate-key",       "A key stands twice in one mapping."),
    // Shapes and values.
    ("unknown-version",     "The recipe is written in a version of the language that this program does not read."),
    ("no-nodes",            "The recipe has nothing to do."),
    ("bad-name",            "A node has a name that could not be referred to."),
    ("unknown-key",         "A key is not one of those that may stand there."),
    ("missing-key",         "A required key is absent."),
    ("wrong-type",          "A value has another type than the one needed (text for a number, a list for a mapping)."),
    ("unknown-word",        "A value is not one of the few words that are possible."),
    ("out-of-range",        "A number is of the right type but too small or too large."),
    ("nothing-given",       "A list or mapping that must name something is empty."),
    ("both-given",          "Settings that exclude each other are given together."),
    ("excess-key",          "A key is given that another one rules out."),
    ("unused-key",          "A key is given that means nothing here."),
    ("one-of",              "Exactly one of several settings is needed."),
    ("bad-parts",           "The parts of a split cannot be made."),
    ("impossible-model",    "The numbers of a model's architecture do not fit together."),
    ("unsupported-model",   "A model folder describes a model that cannot be computed here."),
    ("secret",              "A password or a key stands where others will read it."),
    ("bad-key",             "A key cannot be used: others can read its file, or what is there is no key."),
    ("may-not-leave",       "A node would send a model what the recipe's `egress:` keeps from it."),
    // Names.
    ("unknown-kind",        "A node has a kind that does not exist."),
    ("unknown-provider",    "A model has a provider that does not exist."),
    ("unknown-node",        "A node that is named does not exist."),
    ("unknown-output",      "A node has no output of that name."),
    ("unknown-model",       "A model that is named does not exist."),
    ("unknown-label",       "No input has that label."),
    ("wrong-form",          "Rows are given where a model is needed, or the reverse."),
    ("cycle",               "Nodes need each other in a circle, or one needs itself."),
    // Parameters.
    ("unknown-parameter",   "`${name}` uses a parameter that does not exist, or one that stands further down."),
    ("open-parameter",      "`${` is not closed."),
    ("unfit-parameter",     "`${name}` stands inside a text, and the parameter is a list or a mapping."),
    // Axes of a matrix.
    ("empty-axis",          "An axis has no values."),
    ("duplicate-value",     "Two values of an axis bear one name."),
    ("unnamed-value",       "A value of an axis is a list or a mapping and bears no name."),
    ("unused-axis",         "No node or model uses an axis, so it makes no variants."),
    ("axis-out-of-place",   "An axis is used where everything has to be the same for all variants."),
    ("axis-conflict",       "Two axes of one name with different values meet in one node."),
    ("huge-matrix",         "A matrix makes more nodes and models than the limit."),
    ("taken-name",          "An axis has the name of a column of the results that it would become one of."),
    ("unknown-variant",     "A node has no variant of that name."),
    // Profiles and the command line.
    ("unknown-profile",     "`--profile` names a profile that the recipe does not have."),
    ("unknown-path",        "`--set` leads to a place that the recipe does not have."),
    ("not-an-assignment",   "`--set` has no `=`."),
    ("missing-environment", "An environment variable with a key is not set, and a node would call with it."),
    // Rows.
    ("unknown-format",      "The format of a data file is not told by its ending."),
    ("malformed-row",       "A line of a data file cannot be read."),
    ("empty-source",        "A data file has no rows."),
    ("bad-row-id",          "Ids of rows in a data file are no text, or stand there twice."),
    ("unknown-column",      "A setting names a column that the rows do not have."),
    ("hidden-column",       "A column gets the name of another one."),
    ("missing-column",      "A kind or a prompt reads a column that its rows do not have."),
    ("broken-expression",   "A `where` is not an expression."),
    // Prompts.
    ("broken-example",      "An example is not a pair of `user` and `assistant`."),
    ("broken-messages",     "The messages of a prompt do not follow each other as in a conversation."),
    ("broken-prompt",       "A prompt is not a valid template."),
    ("unknown-variable",    "A prompt uses a variable that its node does not offer."),
    ("missing-variable",    "A prompt does not use a variable without which the question makes no sense."),
    ("unknown-filter",      "A prompt or an expression uses a filter or test that does not exist."),
    ("missing-partial",     "A prompt includes a file that is not there."),
    ("computed-partial",    "A prompt includes a file whose name is only known when it is rendered."),
    ("circular-partial",    "A prompt includes itself."),
];

/// The table as text, one code a line.
pub fn table() -> String {
    let width = CODES.iter().map(|(code, _)| code.len()).max().unwrap_or_default();
    CODES.iter().map(|(code, meaning)| format!("{code:width$}  {meaning}\n")).collect()
}
