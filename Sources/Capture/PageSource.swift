import CKernel
import Glibc
import Kernel
import ProcessImage
import Resources

/// Reads the memory that has to be sent: which page runs there are, and their contents piece by piece.
public final class PageSource {
    /// Piece that is read at once: bigger ones gain nothing.
    public static let pieceSize = 2 << 20
    private static let pageSize: UInt64 = 4096

    private let image: ServiceImage
    private let sharedSources: [String]
    private let buffer = TransferBuffer(capacity: PageSource.pieceSize)

    /// `image` names processes, mappings and shared objects; it may be one of an earlier round.
    public init(image: ServiceImage, sharedSources: [String]) {
        self.image = image
        self.sharedSources = sharedSources
    }

    /// All runs whose content nothing on the destination has: private memory of each process, then the data of shared
    /// objects (holes are left out).
    public func runs() throws(ResourceError) -> [PageRun] {
        var runs: [PageRun] = []
        for (index, process) in image.processes.enumerated() {
            let pagemap: FileDescriptor
            do throws(KernelError) {
                pagemap = try FileDescriptor.open("/proc/\(process.pid)/pagemap", O_RDONLY)
            } catch {
                throw ResourceError("process \(process.pid)", "cannot open its page map", cause: error)
            }
            for vma in process.vmas {
                for range in try Self.privateContent(vma, pagemap: pagemap) {
                    runs.append(
                        PageRun(
                            owner: Int32(index), isShared: false, address: range.lowerBound,
                            length: range.upperBound - range.lowerBound))
                }
            }
        }
        for index in image.sharedMemory.indices { runs += try sharedRuns(index) }
        return runs
    }

    static func privateContent(
        _ vma: VMAImage, pagemap: borrowing FileDescriptor
    ) throws(ResourceError) -> [Range<UInt64>] {
        guard let kind = MemoryKinds.all.first(where: { $0.kind == vma.kind }) else {
            throw ResourceError("mapping \(String(vma.start, radix: 16))", "unknown kind \(vma.kind)")
        }
        return try kind.privateContent(vma, pagemap: pagemap)
    }

    /// lseek(2) SEEK_DATA and SEEK_HOLE.
    private func sharedRuns(_ index: Int) throws(ResourceError) -> [PageRun] {
        let path = sharedSources[index]
        var runs: [PageRun] = []
        do throws(KernelError) {
            let file = try FileDescriptor.open(path, O_RDONLY)
            let raw = file.raw
            let size = (image.sharedMemory[index].size + Self.pageSize - 1) & ~(Self.pageSize - 1)
            var offset: UInt64 = 0
            while offset < size {
                do throws(KernelError) {
                    let from = offset
                    // SEEK_DATA, SEEK_HOLE.
                    let start = UInt64(try systemCall("lseek", on: path) { lseek(raw, Int(from), 3) })
                    let end = UInt64(try systemCall("lseek", on: path) { lseek(raw, Int(start), 4) })
                    let first = start & ~(Self.pageSize - 1)
                    let last = (end + Self.pageSize - 1) & ~(Self.pageSize - 1)
                    runs.append(PageRun(owner: Int32(index), isShared: true, address: first, length: last - first))
                    offset = last
                } catch  where error.code.rawValue == ENXIO {
                    break
                }
            }
        } catch {
            throw ResourceError("shared memory \(index) (\(path))", "cannot find its data", cause: error)
        }
        return runs
    }

    /// Reads `run` in pieces and hands each out; `bytes` are valid during the call. With `omittingZeroPages`, pages of
    /// zeroes are left out where the destination's memory begins as zeroes: right for the first time a page is
    /// sent, wrong for what may hold an older content there.
    public func read(
        _ run: PageRun, omittingZeroPages: Bool,
        _ body: (PageRun, UnsafeRawBufferPointer) throws(ResourceError) -> Void
    ) throws(ResourceError) {
        let reader = try Reader(run, self)
        let mayOmit = omittingZeroPages && (run.isShared || reader.startsAsZeroes)
        var done: UInt64 = 0
        while done < run.length {
            let count = min(UInt64(Self.pieceSize), run.length - done)
            do throws(KernelError) {
                try reader.read(at: run.address + done, count: Int(count), into: buffer.mutableBytes)
            } catch {
                throw ResourceError(reader.subject, "cannot read \(count) bytes", cause: error)
            }
            let piece = UnsafeRawBufferPointer(rebasing: buffer.bytes.prefix(Int(count)))
            let spans = mayOmit ? Self.nonZeroSpans(piece) : [0..<Int(count)]
            for span in spans {
                let part = PageRun(
                    owner: run.owner, isShared: run.isShared, address: run.address + done + UInt64(span.lowerBound),
                    length: UInt64(span.count))
                try body(part, UnsafeRawBufferPointer(rebasing: piece[span]))
            }
            done += count
        }
    }

    /// Everything of `runs()`, once.
    public func readAll(
        _ body: (PageRun, UnsafeRawBufferPointer) throws(ResourceError) -> Void
    ) throws(ResourceError) {
        for run in try runs() { try read(run, omittingZeroPages: true, body) }
    }

    /// The parts of `bytes` between pages of zeroes, page aligned, ascending.
    static func nonZeroSpans(_ bytes: UnsafeRawBufferPointer) -> [Range<Int>] {
        var spans: [Range<Int>] = []
        var start: Int?
        for page in stride(from: 0, to: bytes.count, by: Int(pageSize)) {
            if isZero(bytes, page) {
                if let begun = start { spans.append(begun..<page) }
                start = nil
            } else if start == nil {
                start = page
            }
        }
        if let start { spans.append(start..<bytes.count) }
        return spans
    }

    @inline(__always)
    private static func isZero(_ bytes: UnsafeRawBufferPointer, _ page: Int) -> Bool {
        // The first word tells nearly always.
        var offset = page
        while offset < page + Int(pageSize) {
            var sum: UInt64 = 0
            for word in stride(from: offset, to: offset + 64, by: 8) {
                sum |= bytes.load(fromByteOffset: word, as: UInt64.self)
            }
            if sum != 0 { return false }
            offset += 64
        }
        return true
    }

    /// Where the bytes of one run come from.
    private final class OpenFile {
        let descriptor: FileDescriptor
        init(_ path: String) throws(KernelError) { descriptor = try FileDescriptor.open(path, O_RDONLY) }
    }

    private struct Reader {
        let subject: String
        let startsAsZeroes: Bool
        private let pid: Int32
        /// A shared object, or /proc/PID/mem for memory that the process itself may not read (PROT_NONE).
        private let file: OpenFile?

        init(_ run: PageRun, _ source: PageSource) throws(ResourceError) {
            let owner = Int(run.owner)
            let count = run.isShared ? source.sharedSources.count : source.image.processes.count
            guard owner >= 0, owner < count, run.address % 4096 == 0, run.length % 4096 == 0 else {
                throw ResourceError("page run of owner \(run.owner)", "is malformed")
            }
            do throws(KernelError) {
                if run.isShared {
                    pid = 0
                    subject = "shared memory \(owner)"
                    startsAsZeroes = true
                    file = try OpenFile(source.sharedSources[owner])
                } else {
                    let process = source.image.processes[owner]
                    let vma = process.vmas.first { $0.start <= run.address && run.address < $0.end }
                    pid = process.pid
                    subject = "process \(process.pid) memory at \(String(run.address, radix: 16))"
                    startsAsZeroes = vma?.kind == .anonymous
                    let isReadable = (vma?.protection ?? PROT_READ) & PROT_READ != 0
                    file = isReadable ? nil : try OpenFile("/proc/\(process.pid)/mem")
                }
            } catch {
                throw ResourceError("page run of owner \(run.owner)", "cannot open its source", cause: error)
            }
        }

        func read(at address: UInt64, count: Int, into buffer: UnsafeMutableRawBufferPointer) throws(KernelError) {
            guard let raw = file?.descriptor.raw else {
                try ProcessMemory.read(pid: pid, address: address, count: count, into: buffer)
                return
            }
            var done = 0
            while done < count {
                let got = try systemCall("pread", on: subject) {
                    pread(raw, buffer.baseAddress! + done, count - done, Int(address) + done)
                }
                // Behind the end of a shared object the last page is zeroes.
                if got == 0 {
                    memset(buffer.baseAddress! + done, 0, count - done)
                    return
                }
                done += got
            }
        }
    }
}
