//! Draws what an [`App`] shows. It looks at nothing else, so the same state is always the same picture.

use super::{
    super::units::{Age, Bytes, Ns, Rate},
    app::App,
};
use crate::observe::sample::{Current, Latency, Participant, Percentiles};
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row, Table},
};

/// Deaths, suspects and tasks that were given up: lines at most, and those of the latter two each.
const DEATHS: usize = 8;
const TASKS: usize = 3;
/// Lanes that are shown at most.
const LANES: usize = 8;
/// Lines of processes, without the head, for which everything else makes room.
const LEAST_PROCESSES: u16 = 3;
/// Characters of a task, before other columns make room for it.
const TASK: u16 = 10;

const HELP: &str = "\
q, Esc      quit
s           sort by the next column
p, space    pause, go on
+  -        look less often, more often
up, down, PgUp, PgDn, Home, End
            other processes, where they don't fit
h, ?        this help

tasks/s     finished by that process
CPU         100 % is one CPU
memory      its own: without the segment and files
task        of those it runs, the one it is at; +n: so many more
queued      addressed to that process alone
p50, p99    within a factor of 2";

/// Styles, which are bare where no colours are wanted.
struct Palette {
    has_colors: bool,
}

impl Palette {
    fn color(&self, color: Color) -> Style {
        if self.has_colors { Style::new().fg(color) } else { Style::new() }
    }

    fn head(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    fn strong(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn good(&self) -> Style {
        self.color(Color::Green)
    }

    fn notable(&self) -> Style {
        self.color(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    fn bad(&self) -> Style {
        self.color(Color::Red).add_modifier(Modifier::BOLD)
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let palette = Palette { has_colors: app.has_colors };
    let deaths = deaths(app, &palette);
    let lanes = lanes(app, &palette);
    let area = frame.area();
    // What is least needed has no room first.
    let mut left = area.height.saturating_sub(5 + LEAST_PROCESSES);
    let mut room = |lines: usize| {
        let wanted = lines as u16;
        let got = if wanted <= left { wanted } else { 0 };
        left -= got;
        got
    };
    let (lanes_height, deaths_height) = (room(lanes.len()), room(deaths.len()));
    let [title, figures, latency, processes, lanes_area, deaths_area, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Min(0),
        Constraint::Length(lanes_height),
        Constraint::Length(deaths_height),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(title_line(app, &palette)).style(palette.head()), title);
    frame.render_widget(Paragraph::new(figures_line(app, &palette)), figures);
    frame.render_widget(Paragraph::new(latency_lines(app)), latency);
    draw_processes(frame, app, &palette, processes);
    frame.render_widget(Paragraph::new(lanes), lanes_area);
    frame.render_widget(Paragraph::new(deaths), deaths_area);
    frame.render_widget(Paragraph::new(keys_line(app)).style(palette.head()), keys);
    if app.shows_help {
        draw_help(frame, area);
    }
}

fn title_line(app: &App, palette: &Palette) -> Line<'static> {
    let pool = &app.sample().pool;
    let state = if pool.is_stopped { "stopped" } else { pool.mode };
    let style = if state == "running" { Style::new() } else { palette.notable() };
    let mut spans = vec![
        Span::raw(format!("shmworker top: {} ", app.title)),
        Span::styled(state, style),
        Span::raw(format!(", up {}, coordinator {}", Age(pool.age_ms / 1000), pool.coordinator)),
    ];
    if app.is_paused {
        spans.push(Span::raw(" [paused]"));
    }
    Line::from(spans)
}

fn figures_line(app: &App, palette: &Palette) -> Line<'static> {
    let sample = app.sample();
    let tasks = &sample.tasks;
    let mut text = match app.rates.seconds > 0.0 {
        true => format!("tasks/s {}", Rate(app.rates.total(sample))),
        false => "tasks/s -".to_owned(),
    };
    text += &format!(
        "   {} running, {} ready, {} delayed, {} done, {} of {} free",
        tasks.claimed, tasks.ready, tasks.delayed, tasks.done, tasks.free, sample.segment.descriptors
    );
    if let Some(taken) = sample.segment.taken_bytes {
        text += &format!("   shared {}", Bytes(taken));
    }
    let mut spans = vec![Span::styled(text, palette.strong())];
    if !sample.deaths.is_empty() {
        spans.push(Span::styled("   deaths below", palette.bad()));
    }
    if tasks.damaged > 0 {
        spans.push(Span::styled(format!("   {} DAMAGED: see inspect", tasks.damaged), palette.bad()));
    }
    Line::from(spans)
}

fn latency_lines(app: &App) -> Vec<Line<'static>> {
    let line = |what: &str, latency: Option<Latency>| match latency {
        Some(Latency { wait, run }) => Line::from(format!("{what:<5} wait {}   run {}", shown(&wait), shown(&run))),
        None => Line::from(format!("{what:<5} wait -   run -")),
    };
    vec![line("now", app.rates.latency), line("all", app.sample().latency)]
}

fn shown(p: &Percentiles) -> String {
    format!("p50 {:>6} p90 {:>6} p99 {:>6} max {:>6}", Ns(p.p50_ns), Ns(p.p90_ns), Ns(p.p99_ns), Ns(p.max_ns))
}

fn draw_processes(frame: &mut Frame<'_>, app: &App, palette: &Palette, area: Rect) {
    let all = app.processes();
    let longest = all.iter().map(|p| p.label.chars().count()).max().unwrap_or(0).clamp(5, 24);
    // The last page is a full one.
    let lines = usize::from(area.height.saturating_sub(1));
    let above = app.above.min(all.len().saturating_sub(lines));
    let columns = columns(longest as u16, area.width);
    let some = |cells: [Cell<'static>; 9]| {
        let kept = cells.into_iter().enumerate().filter(|(i, _)| columns.iter().any(|(column, _)| column == i));
        Row::new(kept.map(|(_, cell)| cell).collect::<Vec<_>>())
    };
    let rows = all.iter().skip(above).take(lines).map(|p| some(process_cells(app, palette, p)));
    let right = |text: &'static str| Cell::from(Line::from(text).alignment(Alignment::Right));
    let head = some([
        Cell::from("label"),
        right("pid"),
        Cell::from("S"),
        right("tasks/s"),
        right("done"),
        right("queued"),
        right("CPU"),
        right("memory"),
        Cell::from("task"),
    ]);
    let widths = columns.iter().map(|&(_, width)| width);
    frame.render_widget(Table::new(rows, widths).header(head.style(palette.head())).column_spacing(1), area);
}

/// Which columns there is room for, and how wide they are.
fn columns(label: u16, width: u16) -> Vec<(usize, Constraint)> {
    let widths = [label, 7, 1, 7, 9, 6, 6, 9];
    // Of who it is and what it does there is always something.
    let mut shown = vec![0, 1, 2];
    let mut taken = label + 9 + 3 + TASK;
    for i in [3, 6, 7, 4, 5] {
        taken += widths[i] + 1;
        if taken <= width {
            shown.push(i);
        }
    }
    shown.sort_unstable();
    let task = (8, Constraint::Min(TASK));
    shown.into_iter().map(|i| (i, Constraint::Length(widths[i]))).chain([task]).collect()
}

fn process_cells(app: &App, palette: &Palette, p: &Participant) -> [Cell<'static>; 9] {
    let right = |text: String| Cell::from(Line::from(text).alignment(Alignment::Right));
    let or_dash = |text: Option<String>| right(text.unwrap_or_else(|| "-".to_owned()));
    let (state, style) = match p.process.map(|f| f.state) {
        Some('R') => ("R".to_owned(), palette.good()),
        Some(state @ ('S' | 'I')) => (state.to_string(), Style::new()),
        Some(state) => (state.to_string(), palette.bad()),
        None => ("-".to_owned(), Style::new()),
    };
    [
        Cell::from(p.label.clone()),
        right(p.pid.to_string()),
        Cell::from(state).style(style),
        or_dash(app.rates.tasks(p.name()).map(|rate| Rate(rate).to_string())),
        right(p.finished.to_string()),
        right(p.addressed.to_string()),
        or_dash(app.rates.cpu(p.name()).map(|cpu| format!("{:.0} %", 100.0 * cpu))),
        or_dash(p.process.map(|f| Bytes(f.own_bytes).to_string())),
        Cell::from(p.task.as_ref().map(|task| task_text(task, p.running)).unwrap_or_default()),
    ]
}

fn task_text(task: &Current, running: usize) -> String {
    let mut text = task.task.clone();
    if let Some(ns) = task.running_ns {
        text += &format!(" {}", Ns(ns));
    }
    if let Some(progress) = task.progress {
        text += &match progress.total {
            0 => format!(", {} done", progress.done),
            total => format!(", {} of {total} ({:.0} %)", progress.done, 100.0 * progress.done as f64 / total as f64),
        };
    }
    if task.attempt > 1 {
        text += &format!(", attempt {}", task.attempt);
    }
    if running > 1 {
        text += &format!(" +{}", running - 1);
    }
    text
}

fn lanes(app: &App, palette: &Palette) -> Vec<Line<'static>> {
    let lanes = &app.sample().lanes;
    let mut lines = vec![Line::styled(format!("{:<32} {:>7} {:>8}", "lane", "ready", "delayed"), palette.strong())];
    let line = |lane: &crate::observe::sample::Lane| {
        let name = match lane.queue {
            None => "for one process each".to_owned(),
            Some(n) if lane.name.is_empty() => format!("queue {n}"),
            Some(_) => lane.name.clone(),
        };
        Line::from(format!("{name:<32} {:>7} {:>8}", lane.ready, lane.delayed))
    };
    if lanes.len() <= LANES {
        lines.extend(lanes.iter().map(line));
    } else {
        // Of many, those in which most waits.
        let mut fullest: Vec<_> = lanes.iter().collect();
        fullest.sort_by_key(|lane| std::cmp::Reverse(lane.ready + lane.delayed));
        lines.extend(fullest.into_iter().take(LANES - 1).map(line));
        lines.push(Line::from(format!("and {} more", lanes.len() + 1 - LANES)));
    }
    lines
}

fn deaths(app: &App, palette: &Palette) -> Vec<Line<'static>> {
    let sample = app.sample();
    // Of those that have ended the other list tells, also when their results are taken.
    let mut suspects = sample.suspects.iter().filter(|s| !matches!(s.state, "worker died" | "timed out")).peekable();
    if sample.deaths.is_empty() && sample.given_up.is_empty() && suspects.peek().is_none() {
        return Vec::new();
    }
    let ago = |at_ms: u64| Age(sample.pool.age_ms.saturating_sub(at_ms) / 1000);
    let mut lines = vec![Line::styled("deaths, and tasks over which workers died", palette.strong())];
    for given_up in sample.given_up.iter().take(TASKS) {
        let why = if given_up.is_poison { "POISON, set aside" } else { "given up, no attempt left" };
        let text = format!(
            "task {}: {why} after {} death(s), {} ago; the last: pid {}, {}",
            given_up.task,
            given_up.deaths,
            ago(given_up.at_ms),
            given_up.pid,
            given_up.exit
        );
        lines.push(Line::styled(text, palette.bad()));
    }
    for suspect in suspects.take(TASKS) {
        let limit = if suspect.max_deaths == 0 { String::new() } else { format!(" of {}", suspect.max_deaths) };
        let verdict = if suspect.is_suspect { ", may have killed one: runs alone next" } else { "" };
        lines.push(Line::styled(
            format!("task {}: {}{limit} deaths, {}{verdict}", suspect.task, suspect.deaths, suspect.state),
            palette.notable(),
        ));
    }
    for death in sample.deaths.iter().take(DEATHS + 1 - lines.len()) {
        let why = if death.was_overdue { ", killed: a task took too long" } else { "" };
        lines.push(Line::styled(
            format!(
                "{} (pid {}): {}{why}, {} ago; {} task(s) went to others, {} ended with it",
                death.label,
                death.pid,
                death.exit,
                ago(death.at_ms),
                death.requeued,
                death.failed
            ),
            palette.bad(),
        ));
    }
    lines
}

fn keys_line(app: &App) -> String {
    format!(
        "q quit  s sort: {}  p {}  +/- every {} s  h help",
        app.sort.name(),
        if app.is_paused { "go on" } else { "pause" },
        app.interval.as_secs_f64()
    )
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let width = HELP.lines().map(str::len).max().unwrap_or(0) as u16 + 4;
    let height = HELP.lines().count() as u16 + 2;
    let (width, height) = (width.min(area.width), height.min(area.height));
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" keys ")), place);
}

#[cfg(test)]
mod tests {
    use super::{
        super::app::{Sort, Wish},
        *,
    };
    use crate::{
        exec::endpoint::{Claimed, Endpoint, Submission, To},
        lockfree::participant::{Ending, Loss},
        mem::{
            layout::Geometry,
            segment::{Options, Segment},
        },
        observe::{find::Found, sample::Sample},
        process::exit::Exit,
    };
    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    };
    use std::{os::fd::AsFd, sync::Arc, time::Duration};

    /// A pool without processes: a coordinator, three workers and what they hold.
    struct Pool {
        segment: Arc<Segment>,
        ends: Vec<Endpoint>,
    }

    impl Pool {
        fn new() -> Pool {
            let options = Options::with_queues(["default", "urgent"]);
            let segment = Arc::new(Segment::create_with(Geometry::new(8, 2), &options).unwrap());
            segment.record(0).unwrap().name_tasks([(7, "resize"), (8, "mail")]);
            let ends = ["", "worker:9", "worker:10", "client"].into_iter().zip(0..).map(|(label, role)| {
                let name = segment.table().admit(100 + role, role).unwrap().unwrap();
                segment.record(name.id()).unwrap().set_label(label);
                Endpoint::new(segment.clone(), name)
            });
            Pool { ends: ends.collect(), segment }
        }

        fn submit(&self, kind: u32, queue: usize) {
            let submission = Submission { kind, ..Submission::new(To::Queue(queue)) };
            self.ends[3].try_submit(submission, b"").unwrap();
        }

        fn claim(&self, worker: usize) -> Claimed<'_> {
            let end = &self.ends[worker];
            let claimed = end.claim(end.queue(0)).unwrap().unwrap();
            claimed.begin(1, 0, 0, 0);
            claimed
        }

        fn die(&self) {
            let exit = Exit::Signal(9).pack();
            let ending = Ending { pid: 4711, role: 1, exit, requeued: 1, failed: 2, at_ms: 0 };
            self.segment.record(0).unwrap().note_ending(ending);
        }

        fn give_up(&self, kind: u32, is_poison: bool) {
            let loss = Loss { kind, deaths: 3, is_poison, pid: 4711, exit: Exit::Signal(11).pack(), at_ms: 0 };
            self.segment.record(0).unwrap().note_loss(loss);
        }

        fn sample(&self) -> Sample {
            let fd = self.segment.as_fd().try_clone_to_owned().unwrap();
            Sample::of(&Found {
                segment: Segment::attach(fd, false).unwrap(),
                coordinator: None,
                runs: true,
                path: None,
            })
        }

        fn app(&self, has_colors: bool) -> App {
            App::new("mine".to_owned(), Duration::from_secs(1), has_colors, self.sample())
        }
    }

    fn drawn(app: &App, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app)).unwrap();
        terminal
    }

    fn lines(app: &App, width: u16, height: u16) -> Vec<String> {
        let terminal = drawn(app, width, height);
        let cells = terminal.backend().buffer().content();
        let line = |row: &[ratatui::buffer::Cell]| row.iter().map(|cell| cell.symbol()).collect::<String>();
        cells.chunks(width.into()).map(|row| line(row).trim_end().to_owned()).collect()
    }

    fn press(app: &mut App, code: KeyCode) -> Wish {
        app.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn what_runs_waits_and_died_is_shown() {
        let pool = Pool::new();
        (0..3).for_each(|_| pool.submit(7, 0));
        pool.submit(8, 1);
        let claimed = pool.claim(1);
        claimed.progress(3, 12);
        pool.die();
        let mut app = pool.app(false);
        let all = lines(&app, 120, 24);
        assert!(all[0].starts_with("shmworker top: mine running, up 0:00:0"), "{all:#?}");
        assert!(all[1].contains("tasks/s -   1 running, 3 ready, 0 delayed, 0 done, 4092 of 4096 free"), "{all:#?}");
        let of = |label: &str| all.iter().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("{all:#?}"));
        assert!(of("coordinator").contains("100"));
        assert!(of("worker:9").contains("resize") && of("worker:9").ends_with("3 of 12 (25 %)"), "{all:#?}");
        assert!(of("default").split_whitespace().eq(["default", "2", "0"]), "{all:#?}");
        assert!(of("urgent").split_whitespace().eq(["urgent", "1", "0"]), "{all:#?}");
        let death = "worker:9 (pid 4711): signal 9 (SIGKILL), 0:00:0";
        assert!(all.iter().any(|line| line.starts_with(death)), "{all:#?}");
        assert_eq!(all.last().unwrap(), "q quit  s sort: id  p pause  +/- every 1 s  h help");

        claimed.complete(0, 0, |_| ()).map_err(|(e, _)| e).unwrap();
        app.look(pool.sample());
        let all = lines(&app, 120, 24);
        assert!(all[1].contains("0 running, 3 ready, 0 delayed, 1 done"), "{all:#?}");
        assert!(all[2].starts_with("now   wait p50") && all[3].starts_with("all   wait p50"), "{all:#?}");
    }

    #[test]
    fn tasks_that_were_given_up_are_shown_before_the_deaths() {
        let pool = Pool::new();
        (0..10).for_each(|_| pool.die());
        (0..4).for_each(|_| pool.give_up(8, true));
        pool.give_up(7, false);
        let all = lines(&pool.app(false), 120, 40);
        let from = all.iter().position(|line| line.starts_with("deaths, and tasks")).unwrap();
        let shown = &all[from + 1..all.len() - 1];
        assert_eq!(shown.len(), DEATHS, "{all:#?}");
        assert!(shown[0].starts_with("task resize: given up, no attempt left after 3 death(s), 0:00:0"), "{all:#?}");
        assert!(shown[0].ends_with(" ago; the last: pid 4711, signal 11 (SIGSEGV)"), "{all:#?}");
        let poison = "task mail: POISON, set aside after 3 death(s), ";
        assert!(shown[1..3].iter().all(|line| line.starts_with(poison)), "{all:#?}");
        assert!(shown[3..].iter().all(|line| line.starts_with("worker:9 (pid 4711): signal 9")), "{all:#?}");
    }

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        let pool = Pool::new();
        pool.die();
        let colors = |has_colors| {
            let terminal = drawn(&pool.app(has_colors), 120, 24);
            let cells = terminal.backend().buffer().content();
            cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
        };
        assert_eq!(colors(false), 0);
        assert!(colors(true) > 0);
    }

    #[test]
    fn every_size_has_its_picture() {
        let pool = Pool::new();
        pool.die();
        let mut app = pool.app(true);
        for shows_help in [false, true] {
            app.shows_help = shows_help;
            for (width, height) in [(1, 1), (3, 2), (20, 5), (60, 12), (80, 24), (300, 100)] {
                let all = lines(&app, width, height);
                if height > 5 && !shows_help {
                    assert!(all.last().unwrap().starts_with("q quit"), "{width} x {height}: {all:#?}");
                    assert!(all.iter().any(|line| line.starts_with("coordinator")), "{width} x {height}: {all:#?}");
                }
            }
        }
    }

    #[test]
    fn keys_change_what_is_shown() {
        let pool = Pool::new();
        let mut app = pool.app(false);
        let labels = |app: &App| app.processes().iter().map(|p| p.label.clone()).collect::<Vec<_>>();
        assert_eq!(labels(&app), ["coordinator", "worker:9", "worker:10", "client"]);
        press(&mut app, KeyCode::Char('s'));
        assert_eq!(app.sort, Sort::Label);
        assert_eq!(labels(&app), ["client", "coordinator", "worker:9", "worker:10"], "10 comes after 9");
        for _ in 0..5 {
            press(&mut app, KeyCode::Char('s'));
        }
        assert_eq!(app.sort, Sort::Id, "all around");

        for _ in 0..20 {
            press(&mut app, KeyCode::Char('+'));
        }
        assert_eq!(app.interval, Duration::from_secs(60));
        for _ in 0..20 {
            press(&mut app, KeyCode::Char('-'));
        }
        assert_eq!(app.interval, Duration::from_millis(100));

        press(&mut app, KeyCode::End);
        assert_eq!(app.above, 3);
        let all = lines(&app, 80, 8);
        assert!(all.iter().any(|line| line.starts_with("client")), "the last page is a full one: {all:#?}");
        press(&mut app, KeyCode::Home);
        assert_eq!(app.above, 0);

        press(&mut app, KeyCode::Char('h'));
        assert_eq!(press(&mut app, KeyCode::Esc), Wish::Nothing, "it takes the help away");
        assert_eq!(press(&mut app, KeyCode::Esc), Wish::Quit);
        assert_eq!(press(&mut app, KeyCode::Char('p')), Wish::Nothing);
        assert_eq!(press(&mut app, KeyCode::Char('p')), Wish::Look, "what is shown is old");
        assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Interrupt);
    }
}
