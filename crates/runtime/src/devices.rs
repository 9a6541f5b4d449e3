//! Which devices a container may use: nothing but what is named. On cgroup v1 the kernel keeps a list; on v2 it asks a small
//! program (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`), which is made here of the same rules.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use serde_json::{Value, json};

/// The type of a device file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A block device.
    Block,
    /// A character device.
    Char,
}

/// Making its file (mknod). This and the two others are bits as the kernel's program sees them (linux/bpf.h).
pub const MAKE: u32 = 1;
/// Reading.
pub const READ: u32 = 2;
/// Writing.
pub const WRITE: u32 = 4;
/// Everything that can be done with a device.
pub const ALL: u32 = MAKE | READ | WRITE;

/// The bits of letters as the device cgroup has them (`rwm`); none are all of them.
pub fn access(letters: &str) -> u32 {
    let bits = [('r', READ), ('w', WRITE), ('m', MAKE)].into_iter().filter(|(letter, _)| letters.contains(*letter));
    let bits = bits.fold(0, |all, (_, bit)| all | bit);
    if bits == 0 { ALL } else { bits }
}

/// The letters of bits.
pub fn letters(access: u32) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')].iter().filter(|(bit, _)| access & bit != 0).map(|(_, l)| l).collect()
}

/// Something that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its type.
    pub kind: Type,
    /// `None` is all of them.
    pub major: Option<u32>,
    /// `None` is all of them.
    pub minor: Option<u32>,
    /// What may be done with it: [`MAKE`], [`READ`] and [`WRITE`].
    pub access: u32,
}

impl Rule {
    const fn of(kind: Type, major: Option<u32>, minor: Option<u32>, access: u32) -> Self {
        Rule { kind, major, minor, access }
    }

    /// As a bundle has it (runtime-spec, "Allowed Device list").
    pub fn in_bundle(&self) -> Value {
        let mut rule = json!({"allow": true, "access": letters(self.access)});
        rule["type"] = if self.kind == Type::Block { "b" } else { "c" }.into();
        for (key, number) in [("major", self.major), ("minor", self.minor)] {
            if let Some(number) = number {
                rule[key] = number.into();
            }
        }
        rule
    }
}

/// What every container may: make any device, and use null, zero, full, tty, random, urandom, console, ptmx and terminals.
pub const COMMON: [Rule; 11] = {
    const fn char(major: u32, minor: Option<u32>) -> Rule {
        Rule::of(Type::Char, Some(major), minor, ALL)
    }
    [
        Rule::of(Type::Char, None, None, MAKE),
        Rule::of(Type::Block, None, None, MAKE),
        char(1, Some(3)),
        char(1, Some(5)),
        char(1, Some(7)),
        char(5, Some(0)),
        char(1, Some(8)),
        char(1, Some(9)),
        char(5, Some(1)),
        char(5, Some(2)),
        char(136, None),
    ]
};

/// An instruction of eBPF (RFC 9669, section 3).
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const SKIP_UNLESS: u8 = 0x55;
const SKIP_UNLESS_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The program: its argument is `struct bpf_cgroup_dev_ctx`, it returns 1 for what is allowed.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let [answer, argument, kind_of, access, major, minor] = [0, 1, 2, 3, 4, 5];
    let mut program = vec![
        // The first word has the kind in its low half, the access in its high one.
        instruction(LOAD_WORD, kind_of, argument, 0, 0),
        instruction(COPY, access, kind_of, 0, 0),
        instruction(AND, kind_of, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, access, 0, 0, 16),
        instruction(LOAD_WORD, major, argument, 4, 0),
        instruction(LOAD_WORD, minor, argument, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == Type::Block { 1 } else { 2 };
        let mut tests = vec![(SKIP_UNLESS, kind_of, kind)];
        tests.extend(rule.major.map(|n| (SKIP_UNLESS, major, n as i32)));
        tests.extend(rule.minor.map(|n| (SKIP_UNLESS, minor, n as i32)));
        // Each skips to the next rule: what is left of the tests, three for the access, two for the answer.
        let mut left = tests.len() as i16 + if rule.access == ALL { 2 } else { 5 };
        for (code, register, wanted) in tests {
            left -= 1;
            program.push(instruction(code, register, 0, left, wanted));
        }
        if rule.access != ALL {
            program.extend([
                instruction(COPY, answer, access, 0, 0),
                instruction(AND, answer, 0, 0, rule.access as i32),
                instruction(SKIP_UNLESS_REGISTER, answer, access, 2, 0),
            ]);
        }
        program.extend([instruction(SET, answer, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
    }
    program.extend([instruction(SET, answer, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// Lets what is below a cgroup of version 2 use the devices of the rules alone. It ends with the cgroup.
///
/// # Errors
/// Those of the kernel, as of one that was built without `CONFIG_CGROUP_BPF`.
pub fn restrict(folder: &Path, rules: &[Rule]) -> io::Result<()> {
    /// The fields of `union bpf_attr` for BPF_PROG_LOAD, as far as they are of use here.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const PROG_LOAD: i32 = 5;
    const PROG_ATTACH: i32 = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let program = program(rules);
    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the program and the licence live through the call, and the size is that of what is pointed to.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if loaded < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded as i32) };
    let cgroup = std::fs::File::open(folder)?;
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: both descriptors are open, and the size is that of what is pointed to.
    let attached = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if attached < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with the program: the registers it uses, jumps and the answer (RFC 9669).
    fn allows(rules: &[Rule], kind: Type, (major, minor): (u32, u32), access: u32) -> bool {
        let code = program(rules);
        let context = [access << 16 | if kind == Type::Block { 1 } else { 2 }, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let Instruction { code, registers: both, offset, immediate } = code[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            at += 1;
            match code {
                LOAD_WORD => registers[to] = context[offset as usize / 4].into(),
                COPY => registers[to] = registers[from],
                SET => registers[to] = immediate as u64,
                AND => registers[to] &= immediate as u64,
                SHIFT_RIGHT => registers[to] >>= immediate,
                SKIP_UNLESS if registers[to] != immediate as u64 => at += offset as usize,
                SKIP_UNLESS_REGISTER if registers[to] != registers[from] => at += offset as usize,
                SKIP_UNLESS | SKIP_UNLESS_REGISTER => {}
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn what_is_named_is_allowed_and_nothing_else() {
        let disk = Rule::of(Type::Block, Some(7), Some(3), READ | MAKE);
        let rules = [&COMMON[..], &[disk]].concat();
        let may = |kind, device, access| allows(&rules, kind, device, access);
        assert!(may(Type::Char, (1, 3), READ | WRITE));
        assert!(may(Type::Char, (136, 77), READ | WRITE));
        assert!(may(Type::Block, (8, 0), MAKE));
        assert!(!may(Type::Block, (8, 0), READ));
        assert!(!may(Type::Block, (8, 0), MAKE | READ));
        assert!(!may(Type::Block, (1, 3), READ));
        assert!(!may(Type::Char, (1, 1), READ));
        assert!(may(Type::Block, (7, 3), READ));
        assert!(!may(Type::Block, (7, 3), READ | WRITE));
        assert!(!allows(&[], Type::Char, (1, 3), READ));
        assert_eq!(disk.in_bundle(), json!({"allow": true, "type": "b", "major": 7, "minor": 3, "access": "rm"}));
    }

    #[test]
    fn the_kernel_takes_the_program_and_keeps_to_it() {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let Some(root) = roots.into_iter().find(|r| r.join("cgroup.controllers").exists()) else {
            eprintln!("not seen: this machine has no cgroup v2");
            return;
        };
        let folder = root.join(format!("timonel-devices-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let restricted = restrict(&folder, &COMMON);
        let script = "echo $$ > $0/cgroup.procs && true < /dev/zero && ! true 2>/dev/null < /dev/kmsg";
        let ended = std::process::Command::new("sh").args(["-c", script]).arg(&folder).status();
        let before = std::fs::File::open("/dev/kmsg");
        std::fs::remove_dir(&folder).unwrap();
        restricted.unwrap();
        before.expect("outside the cgroup it can be opened");
        assert!(ended.unwrap().success(), "a device that isn't named can be opened, or one that is can't");
    }
}
