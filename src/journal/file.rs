//! Journal files: appending under a lock, recovering from a cut, packing for the archive.

use super::lock::unlockable;
use super::seal::{self, Seal};
use super::{Header, Line, Trial};
use crate::error::{Context, Error, Result};
use crate::heuristics;
use crate::model::Bytes;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The environments, in order; the first line is one.
    pub headers: Vec<Header>,
    /// The trials, in order.
    pub trials: Vec<Trial>,
    /// What is to be said of it: headers that somebody changed.
    pub warnings: Vec<String>,
    /// It is an archive, packed beside the document that was made of it: by sources that need not be those at hand.
    pub is_archive: bool,
}

/// A journal open for appending; no other process can open it meanwhile.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    whole: u64,
}

impl Journal {
    /// Opens or creates the journal at `path` and returns what it already holds. A torn last line is cut off. With
    /// `fresh`, an old journal is set aside under a name that tells when. Trials that were damaged since they were written are
    /// left out, to be made again: of the journal as it was a copy is kept, which the warnings name with each such line.
    ///
    /// # Errors
    /// Where another process holds the journal, what is broken is no trial, or the file system refuses.
    pub fn open(path: &Path, fresh: bool) -> Result<(Self, Contents)> {
        let what = || format!("journal {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).context(|| format!("output folder {}", folder.display()))?;
        }
        regular(path).context(what)?;
        let mut file = lock(path).context(what)?;
        if fresh && file.metadata().context(what)?.len() > 0 {
            set_aside(path, path.parent().unwrap_or(Path::new("."))).context(what)?;
            file = lock(path).context(what)?;
        }
        let mut parsed = Parsed::of(&mut BufReader::new(&file)).context(what)?;
        if parsed.whole == 0 {
            begins_as_a_journal(&file).context(what)?;
        }
        if let Some(damage) = parsed.damage.iter().find(|damage| !damage.is_trial) {
            return Err(damage.refusal()).context(what);
        }
        if !parsed.damage.is_empty() {
            let copy = free_place(path, path.parent().unwrap_or(Path::new("."))).context(what)?;
            std::fs::copy(path, &copy).context(what)?;
            replace(path, parsed.contents.clone())?;
            file = lock(path).context(what)?;
            parsed.whole = file.metadata().context(what)?.len();
            let lines: Vec<String> = parsed.damage.iter().map(ToString::to_string).collect();
            parsed.contents.warnings.push(format!(
                "{}: what was damaged is measured again, and the journal as it was is kept as {}",
                lines.join("; "),
                copy.display()
            ));
        }
        let Parsed { contents, whole, .. } = parsed.named(path);
        file.set_len(whole).context(what)?;
        file.seek(SeekFrom::End(0)).context(what)?;
        Ok((Self { path: path.to_path_buf(), file, whole }, contents))
    }

    /// Appends lines, all or none, and hands them to the operating system, so that killing this process loses nothing.
    ///
    /// # Errors
    /// Where the file system refuses (a full disk, say); the lines before are whole.
    pub fn append(&mut self, lines: &[Line]) -> Result<()> {
        let mut text = Vec::new();
        for line in lines {
            seal::write(&mut text, line)?;
        }
        if let Err(error) = self.file.write_all(&text) {
            // Half a line would be taken for a broken one if another followed. What cannot be cut off now is cut off
            // when the journal is next opened.
            let _ = self.file.set_len(self.whole);
            return Err(Error::from(error).context(format!("cannot write journal {}", self.path.display())));
        }
        self.whole += text.len() as u64;
        Ok(())
    }
}

/// Moves a journal into `folder` under a name that tells when, and returns its new place. A name that is taken, as after a
/// clock that was set back, is never overwritten.
///
/// # Errors
/// Where the file system refuses.
pub fn set_aside(journal: &Path, folder: &Path) -> Result<PathBuf> {
    let place = free_place(journal, folder)?;
    std::fs::rename(journal, &place).context(|| format!("setting aside {}", journal.display()))?;
    Ok(place)
}

/// A name for a journal in `folder` that tells when, and that nothing has.
fn free_place(journal: &Path, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).context(|| format!("folder {}", folder.display()))?;
    let name = journal.file_name().unwrap_or_default().to_string_lossy();
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    let mut place = folder.join(format!("{name}.{stamp}"));
    for turn in 2.. {
        if !place.exists() {
            break;
        }
        place = folder.join(format!("{name}.{stamp}-{turn}"));
    }
    Ok(place)
}

/// Replaces a journal by one that holds `contents`, whole or not at all.
///
/// # Errors
/// Where the file system refuses; the journal is then as it was.
pub fn replace(journal: &Path, contents: Contents) -> Result<()> {
    heuristics::replace(journal, |file| write_lines(file, contents, seal::write))
        .context(|| format!("journal {}", journal.display()))
}

type WriteLine = fn(&mut Vec<u8>, &Line) -> Result<()>;

fn write_lines(writer: &mut dyn Write, contents: Contents, write_line: WriteLine) -> Result<()> {
    let headers = contents.headers.into_iter().map(Line::Header);
    let trials = contents.trials.into_iter().map(|trial| Line::Trial(Box::new(trial)));
    let mut text = Vec::new();
    for line in headers.chain(trials) {
        text.clear();
        write_line(&mut text, &line)?;
        writer.write_all(&text)?;
    }
    Ok(())
}

/// Refuses what is there and is no file: opening a pipe waits until somebody writes into it.
fn regular(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Error::usage("it is no file; name another")),
        _ => Ok(()),
    }
}

/// How every journal begins.
const BEGINNING: &[u8] = b"{\"kind\":\"header\",";

/// Refuses a file whose only line was never ended and is none of a journal's: it is somebody else's, and not torn.
fn begins_as_a_journal(mut file: &File) -> Result<()> {
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(BEGINNING.len() as u64).read_to_end(&mut start)?;
    if BEGINNING.starts_with(&start) {
        return Ok(());
    }
    Err(Error::usage("it is no journal, which begins with a header; move it away, or give --output another folder"))
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::failure("another sweep is writing it; wait for it to end, or give --output another folder"))
        }
        Err(TryLockError::Error(error)) => Err(unlockable(&error)),
    }
}

/// A line that says nothing that can be relied on.
struct Damage {
    line: usize,
    what: String,
    /// It was a trial, and no header that others stand under.
    is_trial: bool,
}

impl Damage {
    fn refusal(&self) -> Error {
        Error::usage(format!("{self}; mend the line or take it out, or start over with --fresh"))
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "line {}: {}", self.line, self.what)
    }
}

/// No line of a journal comes near; what is longer is something else, and must not fill memory.
const LONGEST_LINE: Bytes = Bytes::mib(4);

/// How every trial begins that this tool wrote.
const TRIAL: &[u8] = b"{\"kind\":\"trial\",";

/// What could be read of a journal, and what could not.
#[derive(Default)]
struct Parsed {
    contents: Contents,
    damage: Vec<Damage>,
    /// The length in bytes of the whole lines.
    whole: u64,
}

impl Parsed {
    fn of(reader: &mut dyn BufRead) -> Result<Self> {
        let mut parsed = Self::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let length = Read::take(&mut *reader, LONGEST_LINE.0).read_until(b'\n', &mut line)?;
            if length as u64 == LONGEST_LINE.0 {
                return Err(Error::usage(format!("line {number}: longer than {LONGEST_LINE}, so none of a journal's")));
            }
            let text = heuristics::without_mark(&line);
            if !line.ends_with(b"\n") {
                // The end, or a line cut short by a kill; but what ends in something else than its line break was not cut.
                if text.split_last().is_some_and(|(_, text)| seal::of(text) == Seal::Fits) {
                    parsed.damage.push(Damage {
                        line: number,
                        what: "its line break is damaged".into(),
                        is_trial: true,
                    });
                }
                break;
            }
            parsed.whole += length as u64;
            if !text.trim_ascii().is_empty() {
                parsed.add(number, text.trim_ascii());
            }
        }
        Ok(parsed)
    }

    /// The same, its warnings with the journal's name.
    fn named(mut self, path: &Path) -> Self {
        self.contents.warnings.iter_mut().for_each(|warning| *warning = format!("{}: {warning}", path.display()));
        self
    }

    fn add(&mut self, line: usize, text: &[u8]) {
        let seal = seal::of(text);
        let (what, is_trial) = match serde_json::from_slice(text) {
            Ok(Line::Header(Header { schema, .. })) if schema != Header::SCHEMA => {
                (format!("schema {schema}, where this tool reads {}", Header::SCHEMA), false)
            }
            Ok(Line::Header(header)) => {
                if seal == Seal::Broken {
                    self.contents.warnings.push(format!("line {line}: the header is not as it was written"));
                }
                self.contents.headers.push(header);
                return;
            }
            Ok(Line::Trial(_)) if self.contents.headers.is_empty() => {
                ("a trial before the header that says what it was measured with".to_owned(), false)
            }
            Ok(Line::Trial(_)) if seal == Seal::Broken => {
                ("it is not as it was written: its seal does not fit".to_owned(), true)
            }
            Ok(Line::Trial(trial)) => match trial.contradiction() {
                Some(contradiction) => (contradiction, true),
                None => return self.contents.trials.push(*trial),
            },
            Err(error) => {
                let is_trial = text.starts_with(TRIAL) || seal != Seal::Missing;
                let holds_header = text.windows(BEGINNING.len()).any(|part| part == BEGINNING);
                let is_under_header = !self.contents.headers.is_empty();
                (format!("{error}, counted in the line"), is_trial && !holds_header && is_under_header)
            }
        };
        self.damage.push(Damage { line, what, is_trial });
    }
}

/// The most that a packed file of so many bytes may unpack to. Journals pack to a twelfth or so; what packs to hundreds of times
/// less is made to fill memory.
fn most_unpacked(packed_bytes: u64) -> u64 {
    packed_bytes.saturating_mul(256).clamp(64 << 20, 1 << 30)
}

/// Reads a journal (`.jsonl`) or an archive (`.jsonl.zst`); a torn last line is dropped.
///
/// # Errors
/// Where the file cannot be read, a whole line is broken or was changed since it was sealed (the message names file and line), or an
/// archive unpacks to far more than a journal would.
pub fn read(path: &Path) -> Result<Contents> {
    let what = || format!("journal {}", path.display());
    regular(path).context(what)?;
    let file = File::open(path).map_err(Error::of_named_file).context(what)?;
    let is_archive = path.extension().is_some_and(|extension| extension == "zst");
    let parsed = if is_archive {
        let most = most_unpacked(file.metadata().context(what)?.len());
        let mut unpacked = BufReader::new(zstd::Decoder::new(file).context(what)?.take(most));
        let parsed = Parsed::of(&mut unpacked).context(what)?;
        if unpacked.get_ref().limit() == 0 {
            return Err(Error::usage(format!("unpacks to more than {} MiB, so no archive", most >> 20)).context(what()));
        }
        parsed
    } else {
        Parsed::of(&mut BufReader::new(file)).context(what)?
    };
    let Parsed { contents, damage, .. } = parsed.named(path);
    match damage.first() {
        Some(damage) => Err(damage.refusal()).context(what),
        None if is_archive && contents.headers.is_empty() => Err(Error::usage("it holds nothing")).context(what),
        None => Ok(Contents { is_archive, ..contents }),
    }
}

/// Packs what journals hold into an archive, replacing it atomically, and returns the archive's size in bytes.
///
/// # Errors
/// Where the file system refuses.
pub fn pack(contents: Contents, archive: &Path) -> Result<u64> {
    let what = || format!("archive {}", archive.display());
    heuristics::replace(archive, |file| {
        let mut encoder = zstd::Encoder::new(file, 19)?;
        encoder.include_checksum(true)?;
        // The archive as a whole has a checksum; seals beside it would weigh as much again as the lines' kernels.
        write_lines(&mut encoder, contents, seal::write_unsealed)?;
        encoder.finish()?;
        Ok(())
    })
    .context(what)?;
    Ok(std::fs::metadata(archive).context(what)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status};
    use crate::model::{Config, Dtype, Family, Micros, Problem, Shape};

    fn header() -> Line {
        Line::Header(Header {
            schema: 1,
            gpu: "NVIDIA H200".into(),
            arch: "sm_90a".into(),
            driver: "580.1".into(),
            nvrtc: "13.0.88".into(),
            protocol: "cold-l2/1".into(),
            sweep: "0.1.0".into(),
            started: "2026-01-01T00:00:00Z".into(),
            ..Header::default()
        })
    }

    fn trial(numel: u64) -> Line {
        let problem = Problem {
            family: Family::Elementwise,
            shape: Shape::of(Family::Elementwise, &[numel]),
            dtype: Dtype::Bf16,
        };
        let config = Config { block_sizes: vec![1024], num_warps: Some(4), ..Config::default() };
        let blank = Trial::untimed(&problem, config, Stage::Screen, Status::Wrong);
        Line::Trial(Box::new(Trial { error: Some("relative error 0.5".into()), kernel: "abc".into(), ..blank }))
    }

    fn lines() -> Vec<Line> {
        vec![header(), trial(1), trial(2), trial(3)]
    }

    fn write(path: &Path, lines: &[Line]) {
        let (mut journal, _) = Journal::open(path, false).unwrap();
        journal.append(lines).unwrap();
    }

    #[test]
    fn a_file_cut_at_any_byte_keeps_its_whole_lines_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole.jsonl");
        write(&path, &lines());
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            let path = folder.path().join("cut.jsonl");
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let whole_lines =
                bytes[..cut].split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).count();
            let (mut journal, contents) = Journal::open(&path, false).unwrap();
            assert_eq!(contents.headers.len() + contents.trials.len(), whole_lines, "cut at {cut}");
            let more = if whole_lines == 0 { vec![header(), trial(9)] } else { vec![trial(9)] };
            journal.append(&more).unwrap();
            let again = read(&path).unwrap();
            assert_eq!(again.headers.len() + again.trials.len(), whole_lines + more.len(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_a_journal_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("journal.jsonl");
        std::fs::write(&note, "what somebody noted, in one line without an end").unwrap();
        let error = Journal::open(&note, false).unwrap_err().to_string();
        assert!(error.contains("it is no journal"), "{error}");
        assert!(std::fs::read_to_string(&note).unwrap().ends_with("without an end"));
        for error in [Journal::open(folder.path(), false).map(drop), read(folder.path()).map(drop)] {
            assert!(error.unwrap_err().to_string().contains("it is no file"));
        }
    }

    #[test]
    fn a_second_writer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let _first = Journal::open(&path, false).unwrap();
        let error = Journal::open(&path, false).unwrap_err().to_string();
        assert!(error.contains("another sweep"), "{error}");
    }

    #[test]
    fn fresh_sets_the_old_journal_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let (_, contents) = Journal::open(&path, true).unwrap();
        assert_eq!(contents, Contents::default());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_set_aside_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let aside = folder.path().join("aside");
        let places: std::collections::BTreeSet<_> = (1..=40)
            .map(|numel| {
                let path = folder.path().join("journal.jsonl");
                write(&path, &[header(), trial(numel)]);
                set_aside(&path, &aside).unwrap()
            })
            .collect();
        assert_eq!(places.len(), 40);
        assert!(places.iter().all(|place| read(place).unwrap().trials.len() == 1));
    }

    #[test]
    fn a_replaced_journal_holds_what_it_was_given_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let mut contents = read(&path).unwrap();
        contents.trials.remove(1);
        replace(&path, contents.clone()).unwrap();
        assert_eq!(read(&path).unwrap(), contents);
        write(&path, &[trial(4)]);
        assert_eq!(read(&path).unwrap().trials.len(), 3);
    }

    #[test]
    fn what_is_no_journal_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let text = |line: &Line| serde_json::to_string(line).unwrap() + "\n";
        let (header, trial) = (text(&header()), text(&trial(1)));
        let cases = [
            ("{\"kind\":\"trial\"}\n{}\n".to_owned(), "journal.jsonl: line 1: "),
            (format!("{header}{trial}{{\n{trial}"), "journal.jsonl: line 3: "),
            (trial.clone(), "line 1: a trial before the header"),
            (header.replace("\"schema\":1", "\"schema\":2"), "line 1: schema 2, where this tool reads 1"),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for text in [format!("{header}\n{trial}\n"), format!("\u{feff}{header}{trial}")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap().trials.len(), 1, "an empty line is none, nor is a byte-order mark");
        }
    }

    #[test]
    fn what_unpacks_without_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl.zst");
        let text = |line: &Line| serde_json::to_string(line).unwrap() + "\n";
        let pack = |text: String| std::fs::write(&path, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        pack(text(&header()) + &"x".repeat(300 << 20));
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 2: longer than 4096 KiB"), "{error}");
        let spaced = " ".repeat(3 << 20) + "\n";
        pack(text(&header()) + &spaced.repeat(40));
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("unpacks to more than 64 MiB"), "{error}");
        pack(text(&header()) + &text(&trial(1)).repeat(20_000));
        assert_eq!(read(&path).unwrap().trials.len(), 20_000, "however alike its lines are");
    }

    /// An archive of [`lines`].
    fn archive_in(folder: &Path) -> PathBuf {
        let (journal, archive) = (folder.join("journal.jsonl"), folder.join("journal.jsonl.zst"));
        write(&journal, &lines());
        pack(read(&journal).unwrap(), &archive).unwrap();
        archive
    }

    /// A bit that a disk or a copy flipped in an archive is an error, and never other data.
    #[test]
    fn no_flipped_bit_of_an_archive_is_read_as_other_data() {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive_in(folder.path());
        let (whole, bytes) = (read(&archive).unwrap(), std::fs::read(&archive).unwrap());
        let (mut refused, flips) = (0, 8 * bytes.len());
        for bit in 0..flips {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&archive, flipped).unwrap();
            match read(&archive) {
                Ok(contents) => assert_eq!(contents, whole, "bit {bit}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > flips * 9 / 10, "{refused} of {flips}");
    }

    /// What a disk may have done to a trial.
    type Change = fn(&mut Trial);

    #[test]
    fn times_that_no_clock_tells_are_refused_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let timed = |change: Change| {
            let Line::Trial(mut trial) = trial(1) else { unreachable!() };
            let us = |us| Some(Micros(us));
            (trial.status, trial.error) = (Status::Ok, None);
            (trial.min_us, trial.q1_us, trial.median_us, trial.q3_us) = (us(9.0), us(9.5), us(10.0), us(11.0));
            trial.time_us = us(9.4);
            change(&mut trial);
            let text = |line: &Line| serde_json::to_string(line).unwrap() + "\n";
            text(&header()) + &text(&Line::Trial(trial))
        };
        let cases: [(Change, &str); 15] = [
            (|_| {}, ""),
            (|trial| trial.median_us = Some(Micros(1.0)), "line 2: q1_us 9.50 µs is more than median_us 1.00 µs"),
            (|trial| trial.q3_us = Some(Micros(1.0)), "line 2: median_us 10.00 µs is more than q3_us 1.00 µs"),
            (|trial| trial.min_us = Some(Micros(-9.0)), "line 2: min_us is -9.00 µs"),
            (|trial| trial.rounds_us = vec![9.0, 0.0], "line 2: a round took 0 µs"),
            (|trial| trial.time_us = Some(Micros(10.5)), "line 2: time_us 10.50 µs is more than median_us 10.00 µs"),
            (|trial| trial.time_us = Some(Micros(8.0)), "line 2: min_us 9.00 µs is more than time_us 8.00 µs"),
            (|trial| trial.q3_us = Some(Micros(1e300)), "line 2: q3_us is "),
            (|trial| trial.samples = Some(0), "line 2: samples is 0"),
            (|trial| trial.rel_err = Some(-0.001), "line 2: rel_err is -0.001"),
            (|trial| trial.rel_err = Some(1.5), "line 2: rel_err is 1.5"),
            (|trial| trial.sm_mhz = Some(0), "line 2: sm_mhz is 0"),
            (|trial| trial.status = Status::Wrong, "line 2: it failed and has times"),
            (
                |trial| trial.problem = Shape::of(Family::RowSoftmax, &[1, 2]),
                "line 2: elementwise has no dimension 'rows'",
            ),
            (|trial| trial.problem = Shape::of(Family::Elementwise, &[0]), "line 2: dimension numel = 0"),
        ];
        for (change, expected) in cases {
            std::fs::write(&path, timed(change)).unwrap();
            match read(&path) {
                Ok(contents) => assert!(expected.is_empty() && contents.trials.len() == 1),
                Err(error) => {
                    assert!(!expected.is_empty() && error.to_string().contains(expected), "{error}: not '{expected}'");
                }
            }
        }
    }

    #[test]
    fn no_flipped_bit_of_a_trial_is_read_as_other_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let (whole, bytes) = (read(&path).unwrap(), std::fs::read(&path).unwrap());
        let trials = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let mut refused = 0;
        for bit in 8 * trials..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            let line = 1 + flipped[..bit / 8].split(|byte| *byte == b'\n').count() - 1;
            match read(&path) {
                Ok(contents) => assert_eq!(contents, whole, "bit {bit}"),
                Err(error) => {
                    assert!(error.to_string().contains(&format!("line {line}: ")), "{error}: not line {line}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 9 * (bytes.len() - trials) * 8 / 10, "{refused}");
    }

    #[test]
    fn a_damaged_trial_is_left_out_and_named_and_the_journal_is_kept_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let text = std::fs::read_to_string(&path).unwrap();
        let whole = read(&path).unwrap();
        let second = text.lines().nth(2).unwrap();
        // Another number, a brace that is gone, and a figure that cannot be, in a line that somebody sealed all the same.
        let sealed = |trial: &Trial| {
            let mut line = Vec::new();
            seal::write(&mut line, &Line::Trial(Box::new(trial.clone()))).unwrap();
            String::from_utf8(line).unwrap().trim_end().to_owned()
        };
        let impossible = sealed(&Trial { samples: Some(0), ..whole.trials[1].clone() });
        for damaged in [second.replace("\"numel\":2", "\"numel\":6"), second.replace(":{", ":"), impossible] {
            let damaged = text.replace(second, &damaged);
            std::fs::write(&path, &damaged).unwrap();
            let (mut journal, contents) = Journal::open(&path, false).unwrap();
            assert_eq!(contents.trials, [whole.trials[0].clone(), whole.trials[2].clone()]);
            assert!(contents.warnings[0].contains("line 3: ") && contents.warnings[0].contains("measured again"));
            journal.append(&[trial(2)]).unwrap();
            drop(journal);
            let again = read(&path).unwrap();
            assert_eq!((again.trials.len(), again.warnings.len()), (3, 0));
            let kept = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
            let kept: Vec<PathBuf> = kept.filter(|kept| *kept != path).collect();
            assert_eq!(kept.len(), 1);
            assert_eq!(std::fs::read_to_string(&kept[0]).unwrap(), damaged);
            std::fs::remove_file(&kept[0]).unwrap();
        }
        // A header that others stand under is no trial.
        let (first, rest) = text.split_once('\n').unwrap();
        let broken = format!("{first}\n{}\n{rest}", first.replace("\"gpu\"", "\"gpu"));
        std::fs::write(&path, &broken).unwrap();
        let error = Journal::open(&path, false).unwrap_err().to_string();
        assert!(error.contains("line 2: "), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
    }

    #[test]
    fn lines_without_a_seal_are_read_and_a_header_that_was_edited_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let whole = read(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let older: String = lines().iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        assert!(!older.contains("seal") && text.lines().all(|line| line.contains("\"seal\":\"")));
        std::fs::write(&path, &older).unwrap();
        assert_eq!(read(&path).unwrap(), whole);
        // A trial among them that cannot be read is left out as one with a seal is.
        let unreadable = older.replacen("\"numel\":2", "\"numel\":", 1);
        assert_ne!(unreadable, older);
        std::fs::write(&path, unreadable).unwrap();
        let (_, contents) = Journal::open(&path, false).unwrap();
        assert_eq!(contents.trials, [whole.trials[0].clone(), whole.trials[2].clone()]);
        std::fs::write(&path, text.replace("580.1", "590.2")).unwrap();
        let edited = read(&path).unwrap();
        assert_eq!((edited.headers[0].driver.as_str(), edited.trials), ("590.2", whole.trials));
        assert!(edited.warnings[0].contains("journal.jsonl: line 1: the header is not as it was written"));
    }

    #[test]
    fn an_archive_that_was_cut_is_refused_and_two_in_one_file_are_both_read() {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive_in(folder.path());
        let bytes = std::fs::read(&archive).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&archive, &bytes[..cut]).unwrap();
            assert!(read(&archive).is_err(), "cut at {cut}");
        }
        std::fs::write(&archive, [&bytes[..], b"more"].concat()).unwrap();
        assert!(read(&archive).is_err());
        std::fs::write(&archive, bytes.repeat(2)).unwrap();
        assert_eq!(read(&archive).unwrap().trials.len(), 6);
    }

    #[test]
    fn an_archive_reads_as_its_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, &lines());
        let archive = folder.path().join("archive/journal.jsonl.zst");
        pack(read(&path).unwrap(), &archive).unwrap();
        assert_eq!(read(&archive).unwrap(), Contents { is_archive: true, ..read(&path).unwrap() });
    }
}
