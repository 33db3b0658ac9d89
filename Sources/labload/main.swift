import Glibc

/// Load from a client of the lab: a paced download, or many connections that are kept alive.
func load(_ arguments: [String]) throws -> Int32 {
    switch arguments.first {
    case "download":
        let allowed: Set = ["host", "port", "path", "rate", "expect-sha256"]
        return try Download(Options(Array(arguments.dropFirst()), allowed: allowed)).run()
    case "keepalive":
        let allowed: Set = ["host", "port", "path", "connections", "interval-ms"]
        return try Keepalive(Options(Array(arguments.dropFirst()), allowed: allowed)).run()
    default:
        throw Options.Wrong(
            description: """
                usage: labload download --host ADDRESS [--port N] [--path P] [--rate BYTES/S] [--expect-sha256 HEX]
                       labload keepalive --host ADDRESS [--port N] [--path P] [--connections N] [--interval-ms N]
                """)
    }
}

do {
    exit(try load(Array(CommandLine.arguments.dropFirst())))
} catch {
    let bytes = [UInt8]("labload: \(error)\n".utf8)
    _ = write(2, bytes, bytes.count)
    exit(2)
}
