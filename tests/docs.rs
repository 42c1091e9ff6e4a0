//! README and book: links lead somewhere, programs compile, each command line is run by this test or by one that is named here,
//! and the pictures are those of their script. That the command line of `shmworker` understands each of its own is in
//! `src/cli/pages.rs`.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    process::{Command, Output, Stdio},
};

const REPOSITORY: &str = "https://github.com/shmworker/shmworker";

/// Who sees to it that a command of the pages works.
enum Proof {
    /// This test runs it, and then there is this file (none: "").
    Here(&'static str),
    /// A file of the repository that runs it, where these words stand.
    In(&'static str, &'static str),
    /// Nobody, for this reason.
    Nobody(&'static str),
}
use Proof::{Here, In, Nobody};

const ROOT: &str =
    "changes the machine: it needs root, systemd or Docker; unit and image are looked at by tests/deploy.rs";
const FIGURES: &str = "writes the figures that are committed, on a machine that does nothing else";
const WALK: Proof = In("tests/newcomer.sh", "block sh");
const TOP: Proof = In("tests/seeing.rs", "top_shows_a_pool_and_obeys_keys");
const POSTGRES: Proof = In("tests/source_postgres.rs", "INSERT INTO shmworker_jobs (job)");
const REDIS: Proof = In("tests/source_redis.rs", "XADD");

/// Each command of a `sh`, `bash` or `console` block, without its comment.
const COMMANDS: &[(&str, Proof)] = &[
    // README
    ("examples/parallelized.sh", In("tests/all.sh", "examples/parallelized.sh")),
    ("tests/all.sh", In(".ci/run", "tests/all.sh")),
    ("cargo install --locked --path .", In(".ci/long", "cargo install --locked --path .")),
    ("shmworker run -w 4 -a 1", In("examples/parallelized.sh", r#"run -w "${1:-4}" -a "${2:-1}""#)),
    ("shmworker starter -n 25", In("examples/parallelized.sh", r#"starter -n "${3:-25}""#)),
    (
        "cargo run --release --no-default-features --features pool --example quickstart",
        In("tests/examples.sh", "check quickstart"),
    ),
    ("shmworker jobs -j 8 -- gzip -k {} < files.txt", Here("a.gz")),
    ("shmworker jobs jobs.jsonl > results.jsonl", Here("results.jsonl")),
    ("shmworker jobs --load ./libthumbs.so --joblog log --resume --progress < jobs.jsonl", Here("log")),
    ("ffi/install --prefix ~/.local", In("ffi/tests/install.rs", "fn all_that_was_installed_is_uninstalled")),
    (
        "cc -shared -fPIC examples/c/plugin_thumbs.c -I ~/.local/include -o libthumbs.so",
        In("tests/temporal_plugins.rs", "examples/c/plugin_thumbs.c"),
    ),
    (
        "shmworker run -w 0 -a 2 --load ./libthumbs.so",
        In("tests/temporal_plugins.rs", "a_thumbnail_is_made_of_bytes_in_c"),
    ),
    ("git clone https://github.com/shmworker/shmworker", WALK),
    ("cargo new greetings", WALK),
    ("cd greetings", WALK),
    ("cargo add --path ../shmworker --no-default-features --features cli,temporal", WALK),
    ("cargo add temporalio-common@=1.1.1 temporalio-macros@=1.1.2 temporalio-workflow@=1.1.1", WALK),
    ("cargo run -- run -w 2 -a 1 --dev-server", WALK),
    (r#"cargo run -- starter -n 3 --input '"Ada"'"#, WALK),
    // docs/jobs.md
    ("shmworker jobs < jobs.jsonl > results.jsonl", Here("results.jsonl")),
    ("shmworker jobs -j 8 --joblog log --progress -- gzip -k {} < files.txt", Here("log")),
    ("shmworker jobs -- convert {} {.}.png ::: *.jpg", Here("x.png")),
    ("shmworker jobs --state batch.state --output results.jsonl jobs.jsonl", Here("batch.state.joblog")),
    // docs/operations.md
    ("shmworker doctor", Here("")),
    ("shmworker doctor --json", Here("")),
    ("shmworker run -w 4 -a 2 --name mine", In("tests/temporal_balance/world.rs", "--name")),
    ("shmworker top mine", TOP),
    ("shmworker inspect mine", In("tests/seeing.rs", "inspect_tells_what_is_done_and_what_waits")),
    (
        "shmworker inspect --json mine | jq '.participants[] | select(.task) | {label, task: .task.task}'",
        In("tests/seeing.rs", "--json"),
    ),
    (
        "cp target/release/program /usr/local/bin/program.new && mv /usr/local/bin/program.new /usr/local/bin/program",
        In("tests/upgrade.rs", "fs::rename"),
    ),
    ("shmworker upgrade mine", In("tests/upgrade.rs", "fresh_workers_are_of_the_new_program")),
    ("shmworker autopsy mine", In("tests/autopsy.rs", "who_is_killed_in_a_handler_has_left_what_it_ran")),
    ("shmworker run -w 4 -a 2 --metrics 127.0.0.1:9100", In("tests/temporal_metrics.rs", "--metrics")),
    ("shmworker jobs --metrics 127.0.0.1:9100 jobs.jsonl", In("tests/metrics.rs", r#""-j", "2", "--metrics""#)),
    ("curl -s http://127.0.0.1:9100/metrics", In("tests/metrics.rs", "/metrics")),
    ("shmworker jobs --otlp http://127.0.0.1:4318 jobs.jsonl", In("tests/otlp.rs", "--otlp")),
    ("shmworker run --source postgres://host/db --otlp http://127.0.0.1:4318", In("tests/sources_cli.rs", "--otlp")),
    ("shmworker run -w 4 -a 2 --otlp http://127.0.0.1:4318", In("tests/temporal_traces.rs", "--otlp")),
    ("shmworker starter -n 100 --otlp http://127.0.0.1:4318", In("tests/temporal_traces.rs", "--otlp")),
    ("shmworker run -w 4 -a 2 --log-format json 2> log.jsonl", In("tests/temporal_metrics.rs", "--log-format")),
    (
        "jq -r 'select(.task) | [.worker, .task, .attempt, .message] | @tsv' log.jsonl",
        In("tests/temporal_metrics.rs", "what_is_logged_says_of_whom_it_is"),
    ),
    ("mkdir -p ~/.local/share/bash-completion/completions ~/.zfunc ~/.config/fish/completions", Here(".zfunc")),
    (
        "shmworker completions bash > ~/.local/share/bash-completion/completions/shmworker",
        Here(".local/share/bash-completion/completions/shmworker"),
    ),
    ("shmworker completions zsh > ~/.zfunc/_shmworker", Here(".zfunc/_shmworker")),
    (
        "shmworker completions fish > ~/.config/fish/completions/shmworker.fish",
        Here(".config/fish/completions/shmworker.fish"),
    ),
    ("shmworker man ~/.local/share/man/man1", Here(".local/share/man/man1/shmworker-jobs.1")),
    // docs/state.md
    ("shmworker recover state", In("tests/journal.rs", "recover_says_what_the_next_start_does")),
    ("shmworker export state > tasks.jsonl", In("tests/journal.rs", "what_is_exported_is_run_where_it_is_imported")),
    ("shmworker import other < tasks.jsonl", In("tests/journal.rs", "what_is_exported_is_run_where_it_is_imported")),
    // docs/guide.md
    (
        "cargo run --release --no-default-features --features pool --example footprint",
        In("tests/examples.sh", "check footprint"),
    ),
    // docs/ffi.md
    (
        "export PKG_CONFIG_PATH=~/.local/lib/pkgconfig LD_LIBRARY_PATH=~/.local/lib",
        In("ffi/tests/install.rs", "fn what_the_page_says_of_installing_works"),
    ),
    (
        "cc examples/c/hello.c $(pkg-config --cflags --libs shmworker) -o hello && ./hello",
        In("ffi/tests/install.rs", "fn what_the_page_says_of_installing_works"),
    ),
    (
        "cc -O2 thumbs.c $(pkg-config --cflags --libs shmworker) -o thumbs",
        In("ffi/tests/c_programs.rs", "fn the_programs_of_the_page_work"),
    ),
    (
        "cc -O2 client.c $(pkg-config --cflags --libs shmworker) -o client && ./client",
        In("ffi/tests/c_programs.rs", "fn the_programs_of_the_page_work"),
    ),
    (
        "cc -std=c11 -O2 -shared -fPIC shout.c $(pkg-config --cflags shmworker) -o libshout.so",
        In("tests/docs.rs", "fn plug_in_of_the_page"),
    ),
    (
        "cc -std=c11 -g -fsanitize=address,undefined -shared -fPIC shout.c $(pkg-config --cflags shmworker) -o libshout.so",
        In("ffi/tests/plugins.rs", "plugins_pass_the_sanitizers_through_pkg_config"),
    ),
    (
        "export LD_PRELOAD=\"$(cc -print-file-name=libasan.so) $(cc -print-file-name=libstdc++.so)\" ASAN_OPTIONS=handle_segv=0:detect_leaks=0",
        In("ffi/tests/plugins.rs", "-print-file-name="),
    ),
    (
        "shmworker run -w 0 -a 2 --load ./libshout.so --task-queue shouts",
        In("tests/temporal_plugins.rs", "a_thumbnail_is_made_of_bytes_in_c"),
    ),
    (
        "shmworker run -w 4 -a 2 --workflow-program ./worker --activity-program ./worker -- its arguments",
        In("tests/temporal_raw.rs", "--workflow-program"),
    ),
    // docs/sources.md, docs/sources/
    (
        "shmworker run --source postgres://me@db.example.org/app -w 8 --load ./libthumbs.so",
        In("tests/source_postgres.rs", "--source"),
    ),
    (
        "shmworker run --source 'postgres://app@db.example.org/app?create=true&sslmode=verify-full' -w 8 --load ./libthumbs.so",
        POSTGRES,
    ),
    (r#"psql -c "INSERT INTO shmworker_jobs (job) VALUES ('{\"task\":\"sha256\",\"args\":\"some text\"}')""#, POSTGRES),
    (
        r#"psql -c "SELECT id, state, result->>'result', last_error FROM shmworker_jobs""#,
        In("tests/source_postgres.rs", "FROM shmworker_jobs WHERE state"),
    ),
    ("shmworker run --source 'redis://cache.example.org/0?stream=jobs' -w 8 --load ./libthumbs.so", REDIS),
    (r#"redis-cli XADD jobs '*' job '{"task":"sha256","args":"some text"}'"#, REDIS),
    ("redis-cli XREAD BLOCK 0 STREAMS jobs:results 0", In("tests/source_redis.rs", ":results")),
    // docs/deploy
    ("cargo install --locked --path . && sudo install ~/.cargo/bin/shmworker /usr/local/bin/", Nobody(ROOT)),
    ("cargo install --locked --path . --root /usr/local", In(".ci/long", "cargo install --locked --path .")),
    ("cargo install --locked --path . --profile dist", In("docs/deploy/Dockerfile", "--profile dist")),
    ("sudo useradd --system --no-create-home shmworker", Nobody(ROOT)),
    ("sudo install -Dm644 docs/deploy/shmworker.service /etc/systemd/system/shmworker.service", Nobody(ROOT)),
    (
        r"printf 'TEMPORAL_ADDRESS=localhost:7233\n' | sudo install -Dm600 /dev/stdin /etc/shmworker/environment",
        Nobody(ROOT),
    ),
    (
        r"printf '[run]\nnum-workflow-workers = 4\n' | sudo install -Dm644 /dev/stdin /etc/shmworker/config.toml",
        Nobody(ROOT),
    ),
    ("sudo systemctl daemon-reload", Nobody(ROOT)),
    ("sudo systemctl enable --now shmworker", Nobody(ROOT)),
    ("docker build -f docs/deploy/Dockerfile -t shmworker .", Nobody(ROOT)),
    (
        "docker run --rm --stop-timeout 30 -e TEMPORAL_ADDRESS=temporal:7233 --network temporal shmworker run -w 4 -a 1",
        Nobody(ROOT),
    ),
    ("docker run --rm shmworker doctor", Nobody(ROOT)),
    // benches/README.md, docs/benchmarks.md
    ("benches/run", In("tests/all.sh", "benches/run 3")),
    ("benches/run 3", In("tests/all.sh", "benches/run 3")),
    ("benches/run 3 --cases a,b --peers raw,pool,executor", In("tests/all.sh", "benches/run 3")),
    ("benches/run --write", Nobody(FIGURES)),
    ("benches/compare COMMIT 21", Nobody(FIGURES)),
    ("benches/compare 03e39ba7 31 --write", Nobody(FIGURES)),
    ("benches/temporal/run", Nobody(FIGURES)),
    ("benches/c/run", Nobody(FIGURES)),
    ("benches/c/run 9 --write", Nobody(FIGURES)),
    ("benches/jobs/run", In(".ci/long", "benches/jobs/run 1")),
    ("benches/jobs/run --write", Nobody(FIGURES)),
    ("benches/seeing/run --write", Nobody(FIGURES)),
    ("benches/seeing/run", In(".ci/long", "benches/seeing/run 1")),
    ("benches/counts/run", In("tests/all.sh", "benches/counts/run")),
    ("peer PEER CASE [KEY=VALUE ...]", In("benches/src/driver/turns.rs", "Command::new")),
    (
        "python3 benches/python/peers.py mp_pool throughput workers=2",
        In("benches/src/driver/turns.rs", "python/peers.py"),
    ),
    (
        "null-server --workflow TrivialWorkflow --seconds 5 -- target/release/shmworker run -w 2 -a 0",
        In("benches/temporal/src/bin/compare/main.rs", "null-server"),
    ),
    (
        "SHMWORKER_DEATHS=20 cargo test --test temporal_deaths -- --nocapture",
        In("tests/all.sh", "cargo test --test temporal_deaths"),
    ),
];

/// Programs that are no doctests: where else each line of them stands, or why they can't be ours.
const EXCERPTS: &[(&str, &str, &str)] = &[
    ("docs/guide.md", "into_par_iter", ""), // rayon's, beside ours
    ("docs/temporal.md", "Worker::new(\"words\")", "examples/temporal_worker.rs"),
];

/// Blocks in other languages, and the test that reads them from the page.
const READ_BY: &[(&str, &str, &str)] = &[
    ("docs/operations.md", "toml", "tests/config.rs"),
    // As Prometheus reads it: what is scraped there is tried.
    ("docs/operations.md", "yaml", "tests/docs.rs"),
    ("docs/sources/postgres.md", "sql", "src/sources/postgres.rs"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Page {
    /// From the root of the repository.
    path: String,
    text: String,
}

struct Block {
    language: String,
    text: String,
}

fn pages() -> Vec<Page> {
    fn below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().unwrap() != "book" {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("CHANGELOG.md")];
    found.push(root().join("benches/README.md"));
    below(&root().join("docs"), &mut found);
    below(&root().join("examples"), &mut found);
    found.sort();
    let page = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        Page { path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text }
    };
    found.into_iter().map(page).collect()
}

impl Page {
    fn events(&self) -> Parser<'_> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES)
    }

    fn links(&self) -> Vec<String> {
        let target = |event| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.into_string()),
            _ => None,
        };
        self.events().filter_map(target).collect()
    }

    /// What GitHub and mdBook call the headings.
    fn anchors(&self) -> BTreeSet<String> {
        let (mut anchors, mut seen) = (BTreeSet::new(), BTreeMap::<String, usize>::new());
        let mut heading: Option<String> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    let text = heading.take().unwrap().to_lowercase();
                    let kept = text.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
                    let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
                    let nth = seen.entry(anchor.clone()).or_default();
                    anchors.insert(if *nth == 0 { anchor } else { format!("{anchor}-{nth}") });
                    *nth += 1;
                }
                _ => {}
            }
        }
        anchors
    }

    fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut block: Option<Block> = None;
        for event in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.into_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    block = Some(Block { language, text: String::new() });
                }
                Event::Text(text) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&text);
                    }
                }
                Event::End(TagEnd::CodeBlock) => blocks.extend(block.take()),
                _ => {}
            }
        }
        blocks
    }

    /// The commands of its shell blocks; in a `console` block those behind a `$`, since the rest is what they print.
    fn commands(&self) -> Vec<String> {
        let of_shell = |block: &Block| ["sh", "bash", "console"].contains(&block.language.as_str());
        let commands = self.blocks().into_iter().filter(of_shell).flat_map(|block| {
            let is_console = block.language == "console";
            let lines: Vec<String> = block.text.replace("\\\n", "").lines().map(str::to_owned).collect();
            lines.into_iter().filter_map(move |line| {
                let line = if is_console { line.strip_prefix("$ ")?.to_owned() } else { line };
                Some(without_comment(&line).to_owned()).filter(|line| !line.is_empty())
            })
        });
        commands.collect()
    }
}

fn without_comment(line: &str) -> &str {
    let comment = if line.starts_with('#') { Some(0) } else { line.find(" # ") };
    line[..comment.unwrap_or(line.len())].trim()
}

/// `path`, with `..` taken away.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut done, part| {
        match part {
            Component::ParentDir => assert!(done.pop(), "{path:?} leaves the repository"),
            Component::CurDir => {}
            part => done.push(part),
        }
        done
    })
}

#[test]
fn each_link_and_each_anchor_leads_somewhere() {
    let pages = pages();
    let anchors: BTreeMap<&str, _> = pages.iter().map(|page| (page.path.as_str(), page.anchors())).collect();
    let mut dead = Vec::new();
    for page in &pages {
        for link in page.links() {
            let at_home = link.strip_prefix(&format!("{REPOSITORY}/blob/main/"));
            if at_home.is_none() && ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme)) {
                continue;
            }
            let (path, anchor) = at_home.unwrap_or(&link).split_once('#').unwrap_or((at_home.unwrap_or(&link), ""));
            let dir = if at_home.is_some() { Path::new("") } else { Path::new(&page.path).parent().unwrap() };
            let target = if path.is_empty() { PathBuf::from(&page.path) } else { normal(&dir.join(path)) };
            let has_anchor = anchor.is_empty()
                || anchors.get(target.to_str().unwrap()).is_some_and(|anchors| anchors.contains(anchor));
            if !root().join(&target).exists() || !has_anchor {
                dead.push(format!("{}: {link}", page.path));
            }
        }
    }
    assert!(pages.iter().map(|page| page.links().len()).sum::<usize>() > 150, "links are no longer found");
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn the_book_has_each_page_once() {
    let pages = pages();
    let summary = pages.iter().find(|page| page.path == "docs/SUMMARY.md").unwrap();
    let mut listed = summary.links();
    listed.sort();
    let in_book = |page: &&Page| page.path.starts_with("docs/") && page.path != "docs/SUMMARY.md";
    let mut wanted: Vec<_> = pages.iter().filter(in_book).map(|page| page.path["docs/".len()..].to_owned()).collect();
    wanted.sort();
    assert_eq!(listed, wanted, "docs/SUMMARY.md is to list what is below docs/");
}

/// The book has what is below docs/, and nothing else of the repository.
#[test]
fn links_out_of_the_book_lead_to_the_repository() {
    let content = "[a](../examples/quickstart.rs) [b](crash.md#x) [c](../README.md) [d](deploy/README.md) [e](https://x.example/)\n\
                   ```c\na[i](../b)\n```\n";
    let wanted = format!(
        "[a]({REPOSITORY}/blob/main/examples/quickstart.rs) [b](crash.md#x) [c]({REPOSITORY}/blob/main/README.md) \
         [d](deploy/index.md) [e](https://x.example/)\n```c\na[i](../b)\n```\n"
    );
    let chapter = serde_json::json!({ "Chapter": { "content": content, "source_path": "guide.md", "sub_items": [] } });
    let book = serde_json::json!([{}, { "items": [chapter] }]).to_string();
    let output = fed("python3", &["docs/repository-links"], &book);
    let book: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(book["items"][0]["Chapter"]["content"], wanted);
}

#[test]
fn each_rust_block_is_compiled() {
    let library = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut excerpts = BTreeSet::new();
    for page in pages() {
        let is_doctest = library.contains(&format!("#[doc = include_str!(\"../{}\")]", page.path));
        for block in page.blocks().iter().filter(|block| block.language.starts_with("rust")) {
            if is_doctest && !block.language.contains("ignore") {
                continue;
            }
            let excerpt = EXCERPTS.iter().find(|(path, words, _)| *path == page.path && block.text.contains(words));
            let (_, words, file) = excerpt.unwrap_or_else(|| {
                panic!("{}: nobody compiles this: make the page a doctest in src/lib.rs\n{}", page.path, block.text)
            });
            excerpts.insert(*words);
            if !file.is_empty() {
                let whole = fs::read_to_string(root().join(file)).unwrap();
                let missing = block.text.lines().find(|line| !whole.contains(line.trim()));
                assert_eq!(missing, None, "{}: this is not in {file}", page.path);
            }
        }
    }
    assert_eq!(excerpts.len(), EXCERPTS.len(), "not all are on the pages any more: only {excerpts:?}");
}

/// It is a doctest, which compiles it; as an example it can be run.
#[test]
fn the_worker_of_the_readme_is_an_example() {
    let pages = pages();
    let readme = pages.iter().find(|page| page.path == "README.md").unwrap();
    let blocks = readme.blocks();
    let program = blocks.iter().find(|block| block.text.contains("struct Greeting;")).unwrap();
    let example = fs::read_to_string(root().join("examples/greetings.rs")).unwrap();
    let (comment, code) = example.split_once("\n\n").unwrap();
    assert!(comment.starts_with("//!"), "{comment}");
    assert_eq!(program.text, code, "the README's program and examples/greetings.rs are to be the same");
}

/// `cargo add` and Cargo.toml on the pages name the versions to which the library is pinned.
#[test]
fn pinned_versions_are_those_of_the_library() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut seen = 0;
    for page in pages() {
        for (at, _) in page.text.match_indices("temporalio-") {
            let name: String = page.text[at..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let rest = &page.text[at + name.len()..];
            if let Some(version) = rest.strip_prefix("@=").or_else(|| rest.strip_prefix(" = \"=")) {
                let version: String = version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
                let pin = format!("{name} = {{ version = \"={version}\"");
                assert!(manifest.contains(&pin), "{}: {name} {version} is not what Cargo.toml has", page.path);
                seen += 1;
            }
        }
    }
    assert!(seen >= 6, "versions are no longer found: {seen}");
}

#[test]
fn what_is_no_shell_and_no_rust_is_understood_too() {
    for page in pages() {
        for Block { language, text } in page.blocks() {
            let feed = |program: &str, args: &[&str]| {
                let output = fed(program, args, &text);
                assert!(output.status.success(), "{}: {}", page.path, String::from_utf8_lossy(&output.stderr));
            };
            match language.as_str() {
                "c" => feed("cc", &["-std=c11", "-Wall", "-Werror", "-fsyntax-only", "-Iffi/include", "-xc", "-"]),
                "cpp" => {
                    feed("c++", &["-std=c++17", "-Wall", "-Werror", "-fsyntax-only", "-Iffi/include", "-xc++", "-"])
                }
                "python" => feed("python3", &["-c", "import ast, sys; ast.parse(sys.stdin.read())"]),
                "json" => feed("python3", &["-c", "import json, sys; [json.loads(line) for line in sys.stdin]"]),
                // Versions are looked at above.
                "toml" if text.starts_with("[dependencies]") => {}
                "text" | "sh" | "bash" | "console" => {}
                language if language.starts_with("rust") => {}
                language => {
                    let reader = READ_BY.iter().find(|(path, of, _)| *path == page.path && *of == language);
                    let (path, _, file) =
                        reader.unwrap_or_else(|| panic!("{}: nobody reads this, in '{language}':\n{text}", page.path));
                    let test = fs::read_to_string(root().join(file)).unwrap();
                    assert!(test.contains(path), "{file} does not read {path}");
                }
            }
        }
    }
}

fn fed(program: &str, args: &[&str], text: &str) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    // Who fails early need not read all.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

/// `shout` of docs/ffi.md.
fn plug_in_of_the_page(library: &Path) {
    let page = fs::read_to_string(root().join("docs/ffi.md")).unwrap();
    let program = page.split("```c\n").find(|block| block.contains("SHMWORKER_PLUGIN(")).unwrap();
    let args = ["-std=c11", "-O2", "-shared", "-fPIC", "-Iffi/include", "-xc", "-", "-o", library.to_str().unwrap()];
    let output = fed("cc", &args, program.split("```").next().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn each_command_is_run_by_somebody() {
    let commands: BTreeMap<&str, &Proof> = COMMANDS.iter().map(|(command, proof)| (*command, proof)).collect();
    assert_eq!(commands.len(), COMMANDS.len(), "one stands there twice");
    let mut unseen: BTreeSet<&str> = commands.keys().copied().collect();
    for page in pages() {
        for command in page.commands() {
            unseen.remove(command.as_str());
            match commands.get(command.as_str()) {
                None => panic!("{}: nobody runs '{command}': say in COMMANDS who does", page.path),
                Some(In(file, words)) => {
                    let text = fs::read_to_string(root().join(file)).unwrap();
                    assert!(text.contains(words), "{file} has no '{words}' any more: who runs '{command}'?");
                }
                Some(Nobody(reason)) => assert!(!reason.is_empty()),
                Some(Here(_)) => {}
            }
        }
    }
    assert!(unseen.is_empty(), "no page has {unseen:?} any more");
}

#[test]
fn the_commands_of_the_pages_do_what_they_say() {
    for (command, proof) in COMMANDS {
        let Here(result) = proof else { continue };
        let scene = tempfile::tempdir().unwrap();
        let path = |name: &str| scene.path().join(name);
        for dir in ["bin", ".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"] {
            fs::create_dir_all(path(dir)).unwrap();
        }
        for name in ["a", "b c", "x.jpg"] {
            fs::write(path(name), "some text").unwrap();
        }
        fs::write(path("files.txt"), "a\nb c\n").unwrap();
        fs::write(path("jobs.jsonl"), "{\"task\":\"sha256\",\"args\":\"some text\"}\n".repeat(3)).unwrap();
        // ImageMagick's, which not everybody has.
        fs::write(path("bin/convert"), "#!/bin/sh\nexec cp \"$1\" \"$2\"\n").unwrap();
        symlink(env!("CARGO_BIN_EXE_shmworker"), path("bin/shmworker")).unwrap();
        fs::set_permissions(path("bin/convert"), fs::Permissions::from_mode(0o755)).unwrap();
        if command.contains("--load") {
            plug_in_of_the_page(&path("libthumbs.so"));
        }

        let search = format!("{}:{}", path("bin").display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env_clear().env("PATH", search).env("HOME", scene.path()).current_dir(scene.path());
        let output = shell.stdin(Stdio::null()).output().unwrap();
        // A machine may lack something, which it says with exit code 1.
        let is_fine = output.status.success() || command.contains("doctor") && output.status.code() == Some(1);
        assert!(is_fine, "'{command}': {}", String::from_utf8_lossy(&output.stderr));
        let is_there = result.is_empty() || fs::metadata(path(result)).is_ok_and(|file| file.len() > 0);
        assert!(is_there, "'{command}' has not written '{result}'");
        if command.ends_with("results.jsonl") {
            let results = fs::read_to_string(path("results.jsonl")).unwrap();
            assert_eq!(results.matches("\"status\":\"done\"").count(), 3, "{results}");
        }
    }
}

#[test]
fn the_pictures_are_those_of_their_script() {
    let drawn = tempfile::tempdir().unwrap();
    let output = Command::new(root().join("docs/pictures/draw")).arg(drawn.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["how.svg", "compared.svg"] {
        let committed = fs::read_to_string(root().join("docs/pictures").join(name)).unwrap();
        let drawn = fs::read_to_string(drawn.path().join(name)).unwrap();
        assert!(committed == drawn, "docs/pictures/{name} is out of date: run docs/pictures/draw");
    }
}

/// What the README compares stands in docs/benchmarks.md.
#[test]
fn the_figures_of_the_readme_are_measured_ones() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let figures = fs::read_to_string(root().join("docs/benchmarks.md")).unwrap();
    let table = readme.split_once("## Beside what you use today").unwrap().1.split_once("\n## ").unwrap().0;
    let mut seen = 0;
    for cell in table.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('|')) {
        for figure in cell.split([',', '(', ')']).map(str::trim) {
            let figure = figure.split(" in Rust").next().unwrap().split(" without").next().unwrap().trim();
            if figure.starts_with(|c: char| c.is_ascii_digit()) {
                let at_ends = [format!("| {figure} "), format!("| {figure} |"), format!("| {figure} ±")];
                assert!(at_ends.iter().any(|cell| figures.contains(cell)), "'{figure}' is not in docs/benchmarks.md");
                seen += 1;
            }
        }
    }
    assert!(seen >= 12, "figures are no longer found: {seen}");
}
