import CKernel
import Glibc

/// Who has a process number that somebody wants to give to a new process.
public enum PidOccupant {
    /// A description of the process, thread, group or session that keeps `number`, or nil when it is free.
    ///
    /// clone3(2) set_tid gives EEXIST for every number whose `struct pid` still lives: a thread, a zombie, and also a
    /// group or session whose leader is gone (kernel/pid.c, alloc_pid).
    public static func find(_ number: Int32) -> String? {
        if let name = try? Files.readText("/proc/\(number)/comm") {
            let owner = (try? Files.readText("/proc/\(number)/status")).flatMap { threadGroup($0) } ?? number
            let comm = name.split(separator: "\n").first.map(String.init) ?? ""
            return owner == number ? "process \(number) (\(comm))" : "thread \(number) (\(comm)) of process \(owner)"
        }
        guard let entries = try? Files.list("/proc") else { return nil }
        for entry in entries {
            guard let pid = Int32(entry), let stat = try? Files.readText("/proc/\(pid)/stat"),
                let close = stat.lastIndex(of: ")")
            else { continue }
            // After the name: state ppid pgrp session, proc_pid_stat(5).
            let fields = stat[stat.index(after: close)...].split(separator: " ")
            guard fields.count > 3 else { continue }
            let name = stat[..<close].split(separator: "(", maxSplits: 1).last ?? ""
            if Int32(fields[2]) == number { return "the process group of process \(pid) (\(name))" }
            if Int32(fields[3]) == number { return "the session of process \(pid) (\(name))" }
        }
        return nil
    }

    private static func threadGroup(_ status: String) -> Int32? {
        status.split(separator: "\n").first { $0.hasPrefix("Tgid:") }.flatMap {
            Int32($0.dropFirst(5).drop { $0 == "\t" || $0 == " " })
        }
    }
}
