import ProcessImage

/// Why the records of the capture programs cannot be read: the programs and this decoder do not fit together.
public struct RecordError: Error, Equatable, Sendable, CustomStringConvertible {
    public var offset: Int
    public var problem: String
    public var description: String { "capture record at byte \(offset): \(problem)" }
}

/// A cursor over the stream that the programs of Sources/CPrograms/bpf/capture.bpf.c write; capture.h is the layout.
struct RecordReader {
    static let magic: UInt32 = 0x4d50_0008
    private let bytes: [UInt8]
    private var offset = 0
    private var end = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    struct Header {
        var kind: UInt32
        var length: Int
        var tid: Int32
    }

    /// Moves to the next record; nil at the end of the stream.
    mutating func nextRecord() throws(RecordError) -> Header? {
        if offset != end { throw RecordError(offset: offset, problem: "\(end - offset) bytes left unread") }
        if offset == bytes.count { return nil }
        end = bytes.count
        let start = offset
        let magic = try take(UInt32.self)
        guard magic == Self.magic else {
            throw RecordError(offset: start, problem: "magic is \(String(magic, radix: 16))")
        }
        let kind = try take(UInt32.self)
        let length = Int(try take(UInt32.self))
        let tid = Int32(truncatingIfNeeded: try take(UInt32.self))
        guard length >= 16, length <= bytes.count - start else {
            throw RecordError(offset: start, problem: "length \(length) of \(bytes.count - start)")
        }
        end = start + length
        return Header(kind: kind, length: length, tid: tid)
    }

    mutating func take<Value: FixedWidthInteger>(_ type: Value.Type) throws(RecordError) -> Value {
        let size = MemoryLayout<Value>.size
        guard end - offset >= size else { throw RecordError(offset: offset, problem: "record is too short") }
        let value = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: Value.self) }
        offset += size
        return Value(littleEndian: value)
    }

    mutating func word() throws(RecordError) -> UInt64 { try take(UInt64.self) }
    mutating func number() throws(RecordError) -> Int32 { Int32(truncatingIfNeeded: try word()) }
    mutating func signed() throws(RecordError) -> Int64 { Int64(bitPattern: try word()) }
    mutating func flag() throws(RecordError) -> Bool { try word() != 0 }

    mutating func words(_ count: Int) throws(RecordError) -> [UInt64] {
        var result: [UInt64] = []
        result.reserveCapacity(count)
        for _ in 0..<count { result.append(try word()) }
        return result
    }

    mutating func block(_ count: Int) throws(RecordError) -> [UInt8] {
        guard count >= 0, end - offset >= count else {
            throw RecordError(offset: offset, problem: "block of \(count) bytes is too short")
        }
        defer { offset += count }
        return [UInt8](bytes[offset..<offset + count])
    }

    mutating func skipRecord() { offset = end }
}

/// Turns the stream of one pass into records.
enum RecordDecoder {
    static func tasks(_ bytes: [UInt8]) throws(RecordError) -> [TaskRecord] {
        var reader = RecordReader(bytes)
        var threads: [ThreadRecord] = []
        var processes: [ProcessRecord] = []
        while let header = try reader.nextRecord() {
            switch header.kind {
            case 1: threads.append(try thread(&reader))
            case 2: processes.append(try process(&reader, pid: header.tid))
            case 3:
                let isShared = try reader.flag()
                let info = Bytes(try reader.block(48) + [UInt8](repeating: 0, count: 80))
                if isShared, let last = processes.indices.last {
                    processes[last].pendingSignals.append(info)
                } else if let last = threads.indices.last {
                    threads[last].pendingSignals.append(info)
                }
            case 5:
                let timer = try posixTimer(&reader)
                if let last = processes.indices.last { processes[last].posixTimers.append(timer) }
            default: reader.skipRecord()
            }
        }
        return processes.map { process in
            var members = threads.filter { $0.tgid == process.pid }
            members.sort { ($0.tid == process.pid ? 0 : 1, $0.tid) < ($1.tid == process.pid ? 0 : 1, $1.tid) }
            var process = process
            complete(&process.pendingSignals, mask: process.pendingMask)
            for index in members.indices {
                complete(&members[index].pendingSignals, mask: members[index].pendingMask)
            }
            return TaskRecord(process: process, threads: members)
        }
    }

    /// A pending signal can lack a record (the kernel had no memory for it): it counts as sent by the kernel.
    private static func complete(_ signals: inout [Bytes], mask: UInt64) {
        let described = Set(signals.map { $0.content[0] })
        for bit in 0..<64 where mask & (1 << UInt64(bit)) != 0 && !described.contains(UInt8(bit + 1)) {
            var info = [UInt8](repeating: 0, count: 128)
            info[0] = UInt8(bit + 1)
            signals.append(Bytes(info))
        }
    }

    private static func thread(_ reader: inout RecordReader) throws(RecordError) -> ThreadRecord {
        var thread = ThreadRecord()
        thread.tid = try reader.number()
        thread.tgid = try reader.number()
        thread.parent = try reader.number()
        thread.group = try reader.number()
        thread.session = try reader.number()
        thread.exitState = UInt32(truncatingIfNeeded: try reader.word())
        thread.exitSignal = try reader.number()
        thread.flags = try reader.word()
        thread.ptrace = try reader.word()
        thread.threadFlags = try reader.word()
        thread.registers = try reader.words(27)
        let blocked = try reader.word()
        let saved = try reader.word()
        thread.blockedSignals = try reader.flag() ? saved : blocked
        thread.pendingMask = try reader.word()
        thread.alternateStack = try reader.word()
        thread.alternateStackSize = try reader.word()
        thread.alternateStackFlags = try reader.word()
        thread.robustList = try reader.word()
        thread.clearChildTid = try reader.word()
        thread.rseqAddress = try reader.word()
        thread.rseqLength = try reader.word()
        thread.rseqSignature = try reader.word()
        thread.restart = restart(try reader.words(5))
        try sharing(&thread, &reader)
        try namespaces(&thread, &reader)
        try credentials(&thread, &reader)
        return thread
    }

    private static func restart(_ words: [UInt64]) -> RestartBlock {
        let time = Int64(bitPattern: words[4])
        switch words[0] {
        case 0: return .none
        case 1: return .nanosleep(clock: Int32(truncatingIfNeeded: words[1]), expires: time)
        case 2:
            guard words[2] != 0 else { return .poll(expires: nil) }
            let (seconds, overflow) = Int64(bitPattern: words[3]).multipliedReportingOverflow(by: 1_000_000_000)
            return .poll(expires: overflow ? nil : seconds &+ time)
        case 3:
            // FLAGS_CLOCKRT of kernel/futex/futex.h.
            return .futex(clock: words[2] & 0x20 != 0 ? 0 : 1, expires: time)
        default: return .other
        }
    }

    private static func sharing(_ thread: inout ThreadRecord, _ reader: inout RecordReader) throws(RecordError) {
        thread.files = try reader.word()
        thread.fileSystem = try reader.word()
        thread.signalHandlers = try reader.word()
        thread.memory = try reader.word()
        thread.umask = UInt32(truncatingIfNeeded: try reader.word())
    }

    private static func namespaces(_ thread: inout ThreadRecord, _ reader: inout RecordReader) throws(RecordError) {
        thread.namespaces.user = try reader.word()
        thread.namespaces.mount = try reader.word()
        thread.namespaces.network = try reader.word()
        thread.namespaces.pid = try reader.word()
        thread.namespaces.pidForChildren = try reader.word()
        thread.namespaces.uts = try reader.word()
        thread.namespaces.ipc = try reader.word()
        thread.namespaces.time = try reader.word()
        thread.namespaces.cgroup = try reader.word()
        thread.namespaces.readerNetwork = try reader.word()
        thread.namespaces.readerPid = try reader.word()
    }

    private static func credentials(_ thread: inout ThreadRecord, _ reader: inout RecordReader) throws(RecordError) {
        func id(_ reader: inout RecordReader) throws(RecordError) -> UInt32 {
            UInt32(truncatingIfNeeded: try reader.word())
        }
        var credentials = CredentialsImage()
        credentials.realUser = try id(&reader)
        credentials.effectiveUser = try id(&reader)
        credentials.savedUser = try id(&reader)
        credentials.fileSystemUser = try id(&reader)
        credentials.realGroup = try id(&reader)
        credentials.effectiveGroup = try id(&reader)
        credentials.savedGroup = try id(&reader)
        credentials.fileSystemGroup = try id(&reader)
        credentials.inheritable = try reader.word()
        credentials.permitted = try reader.word()
        credentials.effective = try reader.word()
        credentials.bounding = try reader.word()
        credentials.ambient = try reader.word()
        credentials.secureBits = try id(&reader)
        // PFA_NO_NEW_PRIVS is bit 0 of task->atomic_flags.
        let flags = try reader.word()
        credentials.noNewPrivileges = flags & 1 != 0
        thread.speculation = speculation(flags)
        thread.seccompMode = try reader.word()
        credentials.seccompFilters = try id(&reader)
        try peculiarities(&thread, &reader)
        let count = Int(try reader.word())
        thread.hasTooManyGroups = count > 64
        var groups: [UInt32] = []
        for _ in 0..<64 { groups.append(try reader.take(UInt32.self)) }
        credentials.supplementaryGroups = [UInt32](groups.prefix(min(count, 64)))
        thread.credentials = credentials
        thread.name = String(decoding: try reader.block(16).prefix { $0 != 0 }, as: UTF8.self)
        let size = try reader.word()
        _ = try reader.words(2)
        guard size <= 16384 else { throw RecordError(offset: 0, problem: "xsave area of \(size) bytes") }
        thread.xsave = try reader.block(Int(size))
    }

    /// PFA_SPEC_… of task->atomic_flags: bits 3, 4 and 7 for store bypass, 5 and 6 for indirect branches.
    private static func speculation(_ flags: UInt64) -> SpeculationImage {
        var image = SpeculationImage()
        let isSet = { (bit: UInt64) in flags >> bit & 1 != 0 }
        image.storeBypass = isSet(4) ? 8 : isSet(7) ? 16 : isSet(3) ? 4 : 0
        image.indirectBranch = isSet(6) ? 8 : isSet(5) ? 4 : 0
        return image
    }

    private static func peculiarities(_ thread: inout ThreadRecord, _ reader: inout RecordReader) throws(RecordError) {
        thread.isVforkChild = try reader.flag()
        thread.usesIOUring = try reader.flag()
        thread.hasSemaphoreUndo = try reader.flag()
        let bitmap = try reader.flag()
        let privilegeLevel = try reader.flag()
        thread.hasIOPermissions = bitmap || privilegeLevel
        // ARCH_SHSTK_SHSTK is bit 0.
        thread.hasShadowStack = try reader.word() & 1 != 0
        thread.hasSyscallDispatch = try reader.flag()
        thread.hasCoreCookie = try reader.flag()
        thread.hasMemoryPolicy = try reader.flag()
        thread.personality = try reader.word()
        thread.parentDeathSignal = try reader.number()
        thread.timerSlack = try reader.word()
        thread.parentThread = try reader.number()
        thread.policy = try reader.number()
        thread.ownKeys = try reader.word()
        thread.sessionKeys = try reader.word()
        thread.filterChain = try reader.word()
        thread.landlockDomain = try reader.word()
        thread.landlockPlaceIsTold = try reader.flag()
        let hidesTime = try reader.flag()
        let hidesProcessor = try reader.flag()
        thread.hasFaultingInstructions = hidesTime || hidesProcessor
    }

    private static func process(_ reader: inout RecordReader, pid: Int32) throws(RecordError) -> ProcessRecord {
        var process = ProcessRecord()
        process.pid = pid
        let now = try reader.signed()
        var layout = MemoryLayoutImage()
        layout.startCode = try reader.word()
        layout.endCode = try reader.word()
        layout.startData = try reader.word()
        layout.endData = try reader.word()
        layout.startBrk = try reader.word()
        layout.brk = try reader.word()
        layout.startStack = try reader.word()
        layout.argStart = try reader.word()
        layout.argEnd = try reader.word()
        layout.envStart = try reader.word()
        layout.envEnd = try reader.word()
        layout.vdso = try reader.word()
        process.memoryFlags = try reader.word()
        process.hasAsynchronousIO = try reader.flag()
        process.hasLocalDescriptorTable = try reader.flag()
        process.protectionKeys = try reader.word()
        _ = try reader.word()
        process.oomScoreAdjustment = try reader.number()
        process.isChildSubreaper = try reader.flag()
        _ = try reader.word()
        process.pendingMask = try reader.word()
        let hasActions = try reader.flag()
        process.newMappings = try reader.word()
        process.membarrierState = try reader.word()
        process.signalFlags = try reader.word()
        process.intervalTimers = timers(now: now, try reader.words(8).map { Int64(bitPattern: $0) })
        layout.auxv = auxiliaryVector(try reader.words(64))
        process.layout = layout
        for _ in 0..<16 {
            process.limits.append(LimitImage(soft: try reader.word(), hard: try reader.word()))
        }
        for _ in 0..<64 {
            let words = try reader.words(4)
            guard hasActions else { continue }
            process.signalActions.append(
                SignalActionImage(handler: words[0], flags: words[1], restorer: words[2], mask: words[3]))
        }
        return process
    }

    /// The kernel's copy up to and with AT_NULL.
    private static func auxiliaryVector(_ words: [UInt64]) -> Bytes {
        var bytes: [UInt8] = []
        for pair in stride(from: 0, to: words.count - 1, by: 2) {
            for word in words[pair...pair + 1] {
                withUnsafeBytes(of: word.littleEndian) { bytes.append(contentsOf: $0) }
            }
            if words[pair] == 0 { break }
        }
        return Bytes(bytes)
    }

    static func files(_ bytes: [UInt8]) throws(RecordError) -> [FileRecord] {
        var reader = RecordReader(bytes)
        var files: [FileRecord] = []
        while let header = try reader.nextRecord() {
            guard header.kind == 4 else {
                reader.skipRecord()
                continue
            }
            files.append(try file(&reader))
        }
        return files
    }

    private static func file(_ reader: inout RecordReader) throws(RecordError) -> FileRecord {
        var file = FileRecord()
        file.pid = try reader.number()
        file.number = try reader.number()
        file.description = try reader.word()
        file.flags = UInt32(truncatingIfNeeded: try reader.word())
        file.mode = UInt32(truncatingIfNeeded: try reader.word())
        file.position = try reader.signed()
        file.inode = try reader.word()
        file.device = try reader.word()
        let isSocket = try reader.flag()
        var socket = SocketRecord()
        socket.family = UInt16(truncatingIfNeeded: try reader.word())
        socket.type = UInt16(truncatingIfNeeded: try reader.word())
        socket.protocolNumber = UInt16(truncatingIfNeeded: try reader.word())
        socket.state = UInt8(truncatingIfNeeded: try reader.word())
        socket.shutdown = UInt8(truncatingIfNeeded: try reader.word())
        socket.inode = file.inode
        socket.localPort = UInt16(truncatingIfNeeded: try reader.word())
        socket.remotePort = UInt16(truncatingIfNeeded: try reader.word())
        socket.timestampRecent = UInt32(truncatingIfNeeded: try reader.word())
        socket.acceptQueue = UInt32(truncatingIfNeeded: try reader.word())
        socket.halfOpen = UInt32(truncatingIfNeeded: try reader.word())
        socket.peerInode = try reader.word()
        socket.isMPTCP = try reader.flag()
        socket.hasUpperLayer = try reader.flag()
        socket.isSigned = try reader.flag()
        socket.hasFilter = try reader.flag()
        socket.hasSelector = try reader.flag()
        let local = try reader.block(16)
        let remote = try reader.block(16)
        let nameLength = Int(try reader.word())
        let peerNameLength = Int(try reader.word())
        let name = try reader.block(112)
        let peerName = try reader.block(112)
        let group = try reader.block(16)
        guard nameLength <= name.count, peerNameLength <= peerName.count else {
            throw RecordError(offset: 0, problem: "unix name of \(nameLength) or \(peerNameLength) bytes")
        }
        // AF_INET and AF_INET6.
        if socket.family == 2 || socket.family == 10 {
            socket.localAddress = local
            socket.remoteAddress = remote
            if group.contains(where: { $0 != 0 }) { socket.multicastGroup = group }
        }
        socket.unixName = [UInt8](name.prefix(nameLength))
        socket.peerName = [UInt8](peerName.prefix(peerNameLength))
        file.socket = isSocket ? socket : nil
        return file
    }
}
