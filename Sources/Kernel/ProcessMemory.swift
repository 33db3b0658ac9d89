import CKernel
import Glibc

/// A page-aligned buffer that is allocated once and reused: copying into memory never touched before costs ten
/// times as much.
public final class TransferBuffer {
    public let capacity: Int
    private let memory: UnsafeMutableRawPointer

    /// `capacity` is in bytes; the pages are touched here.
    public init(capacity: Int) {
        self.capacity = capacity
        memory = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 4096)
        memset(memory, 0, capacity)
    }

    deinit { memory.deallocate() }

    public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory, count: capacity) }
    public var mutableBytes: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: memory, count: capacity)
    }
}

/// The memory of another process, process_vm_readv(2) and process_vm_writev(2).
public enum ProcessMemory {
    /// Reads `count` bytes at `address` into the front of `buffer`; fewer than asked for is an error.
    public static func read(
        pid: Int32, address: UInt64, count: Int, into buffer: UnsafeMutableRawBufferPointer
    ) throws(KernelError) {
        try transfer("process_vm_readv", SYS_process_vm_readv, pid, address, count, buffer.baseAddress, buffer.count)
    }

    public static func read(pid: Int32, address: UInt64, count: Int) throws(KernelError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var failure: KernelError?
        bytes.withUnsafeMutableBytes { buffer in
            do throws(KernelError) {
                try read(pid: pid, address: address, count: count, into: buffer)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Writes all of `bytes` at `address`; the pages must be mapped writable.
    public static func write(pid: Int32, address: UInt64, _ bytes: UnsafeRawBufferPointer) throws(KernelError) {
        let start = UnsafeMutableRawPointer(mutating: bytes.baseAddress)
        try transfer("process_vm_writev", SYS_process_vm_writev, pid, address, bytes.count, start, bytes.count)
    }

    public static func write(pid: Int32, address: UInt64, _ bytes: [UInt8]) throws(KernelError) {
        var failure: KernelError?
        bytes.withUnsafeBytes { buffer in
            do throws(KernelError) { try write(pid: pid, address: address, buffer) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    private static func transfer(
        _ name: StaticString, _ number: Int32, _ pid: Int32, _ address: UInt64, _ count: Int,
        _ buffer: UnsafeMutableRawPointer?, _ capacity: Int
    ) throws(KernelError) {
        let object = "pid \(pid) at \(String(address, radix: 16))"
        guard count <= capacity, let buffer else {
            if count == 0 { return }
            throw KernelError(call: "\(name)", object: object, code: .invalidArgument)
        }
        var done = 0
        while done < count {
            var local = iovec(iov_base: buffer + done, iov_len: count - done)
            var remote = iovec(
                iov_base: UnsafeMutableRawPointer(bitPattern: UInt(address) + UInt(done)), iov_len: count - done)
            let moved = try systemCall(name, on: object) {
                withUnsafeMutablePointer(to: &local) { local in
                    withUnsafeMutablePointer(to: &remote) { remote in
                        ck_syscall(Int(number), Int(pid), Int(bitPattern: local), 1, Int(bitPattern: remote), 1, 0)
                    }
                }
            }
            guard moved > 0 else { throw KernelError(call: "\(name)", object: object, code: .fault) }
            done += moved
        }
    }
}
