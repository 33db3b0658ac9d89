import Kernel
import KernelCapture
import ProcessImage
import Resources

/// Reads seccomp filters of frozen processes.
///
/// Both those of the unit's sandbox and what a service installed itself come from the process, so that it is under the
/// same ones afterwards, whatever the unit's file says by then. A frozen thread that is stopped by ptrace(2) and let go
/// stays in the kernel all the while: its system call is not interrupted a second time.
struct FilterCapture {
    private(set) var chains: [FilterChainImage] = []
    private var indices: [UInt64: Int32] = [:]

    /// Index of the chain that a process is under; each chain is read once.
    mutating func index(_ process: ProcessSnapshot) throws(ResourceError) -> Int32 {
        let leader = process.leader
        guard leader.credentials.seccompFilters > 0 else { return -1 }
        if let known = indices[leader.filterChain] { return known }
        let chain: FilterChainImage
        do throws(KernelError) { chain = try Self.read(process.pid, Int(leader.credentials.seccompFilters)) } catch {
            throw ResourceError("process \(process.pid)", "cannot read its seccomp filters", cause: error)
        }
        let index = Int32(chains.count)
        chains.append(chain)
        indices[leader.filterChain] = index
        return index
    }

    private static func read(_ pid: Int32, _ count: Int) throws(KernelError) -> FilterChainImage {
        var chain = FilterChainImage()
        try Ptrace.seize(pid, options: 0)
        var failure: KernelError?
        do throws(KernelError) {
            try Ptrace.interrupt(pid)
            try Ptrace.awaitStop(pid)
            for index in 0..<count {
                guard let program = try Ptrace.seccompFilter(pid, index) else { break }
                chain.programs.append(Bytes(program))
                chain.flags.append(try Ptrace.seccompFlags(pid, index))
            }
        } catch {
            failure = error
        }
        try Ptrace.detach(pid)
        if let failure { throw failure }
        return chain
    }
}
